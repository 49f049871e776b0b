"""Tiny random checkpoints of many architectures: what an estimate of memory is held against.

`python -m tests.support.architectures OUT NAME …` writes each into a folder of its name. In a process of its own, for
it imports torch; nobody else needs it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.process import ROOT, environment
from tools.tinymodel.fleet import CHECKPOINT

VOCABULARY = 576  # the tokenizer's 560, as the engine pads them
CONTEXT = 8192  # tokens

_TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
_SMALL_BATCHES = {"max_num_batched_tokens": 512, "max_num_seqs": 8}  # so that a window matters
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "decoder_sparse_step": 1}
_LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_BERT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 1,
}
_LATENT = {key: value for key, value in _TEXT.items() if key != "head_dim"} | {
    "num_key_value_heads": 2,
    "kv_lora_rank": 512,  # what the engine's kernels know
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 32,
    "v_head_dim": 32,
    "q_lora_rank": None,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "first_k_dense_replace": 1,
}
_STATE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_heads": 4,
    "head_dim": 32,
    "expand": 2,
    "state_size": 16,
    "n_groups": 1,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
_MAMBA = {
    "mamba_n_heads": 4,
    "mamba_d_head": 32,
    "mamba_d_state": 16,
    "mamba_n_groups": 1,
    "mamba_expand": 2,
}
_GRANITE = _LOCAL_EXPERTS | _MAMBA | {
    "num_hidden_layers": 4,
    "layer_types": ["mamba", "attention"] * 2,
    "shared_intermediate_size": 64,
}  # fmt: skip
_DELTA = {
    "num_hidden_layers": 4,
    "head_dim": 256,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
}


class Architecture(NamedTuple):
    """How transformers makes it, and how the engine is told to run it."""

    model_type: str
    config: Mapping[str, Any]
    auto: str = "AutoModelForCausalLM"
    options: Mapping[str, Any] = {}
    file: str = "5GB"  # of weights, at most


LARGE = Architecture(
    "llama",
    _TEXT
    | {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
    },
)
"""A billion numbers, for a card: long enough to load that phases can be told apart."""

ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture("llama", _TEXT),
    "llama-tied": Architecture("llama", _TEXT | {"tie_word_embeddings": True}),
    "llama-deep": Architecture(
        "llama", _TEXT | {"num_hidden_layers": 5, "num_key_value_heads": 2, "head_dim": 64}, file="500KB"
    ),
    "mistral": Architecture("mistral", _TEXT | {"sliding_window": None}),
    "mistral-sliding": Architecture("mistral", _TEXT | {"sliding_window": 256}, options=_SMALL_BATCHES),
    "qwen2": Architecture("qwen2", _TEXT),
    "qwen3": Architecture("qwen3", _TEXT),
    "qwen3-moe": Architecture("qwen3_moe", _TEXT | _EXPERTS),
    "mixtral": Architecture("mixtral", _TEXT | _LOCAL_EXPERTS | {"sliding_window": None}),
    "phi3": Architecture("phi3", _TEXT | {"sliding_window": None}),
    "gemma3": Architecture(
        "gemma3_text",
        _TEXT | {"sliding_window": 256, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "gemma3-mostly-sliding": Architecture(
        "gemma3_text",
        _TEXT
        | {
            "num_hidden_layers": 6,
            "sliding_window": 256,
            "layer_types": ["sliding_attention"] * 5 + ["full_attention"],
        },
        options=_SMALL_BATCHES,
    ),
    "gemma3-uneven": Architecture(
        "gemma3_text",
        _TEXT
        | {
            "num_hidden_layers": 7,
            "sliding_window": 256,
            "layer_types": (["sliding_attention"] * 2 + ["full_attention"]) * 2 + ["sliding_attention"],
        },
        options=_SMALL_BATCHES,
    ),
    "gpt-oss": Architecture(
        "gpt_oss",
        _TEXT | _LOCAL_EXPERTS | {"sliding_window": 128, "layer_types": ["sliding_attention", "full_attention"]},
        options={"tool_call_parser": "openai"},  # and not the one for the tokenizer that it borrows
    ),
    "olmo2": Architecture("olmo2", _TEXT),
    "gpt2": Architecture(
        "gpt2", {"vocab_size": VOCABULARY, "n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": CONTEXT}
    ),
    "deepseek-v2": Architecture("deepseek_v2", _LATENT),
    "mamba2": Architecture("mamba2", _STATE),
    "granite-hybrid": Architecture("granitemoehybrid", _TEXT | _GRANITE),
    "granite-mostly-states": Architecture(
        "granitemoehybrid",
        _TEXT
        | _GRANITE
        | {
            "num_hidden_layers": 5,
            "layer_types": ["mamba", "mamba", "attention", "mamba", "mamba"],
            "mamba_d_state": 256,  # larger than a block of tokens
        },
    ),
    "granite-uncached": Architecture("granitemoehybrid", _TEXT | _GRANITE, options={"enable_prefix_caching": False}),
    "falcon-h1": Architecture("falcon_h1", _TEXT | _MAMBA | {"mamba_d_ssm": 128}),
    "nemotron-h": Architecture(
        "nemotron_h",
        _TEXT
        | {
            "layers_block_type": ["mamba", "mlp", "mamba", "attention"],
            "num_hidden_layers": 4,
            "mamba_num_heads": 4,
            "mamba_head_dim": 32,
            "ssm_state_size": 16,
            "n_groups": 1,
        },
    ),
    "jamba": Architecture(
        "jamba",
        _TEXT
        | {
            "num_hidden_layers": 4,
            "attn_layer_period": 4,
            "attn_layer_offset": 2,
            "num_experts": 4,
            "mamba_d_state": 16,
            "mamba_dt_rank": 4,
            "use_mamba_kernels": False,
        },
    ),
    "qwen3-next": Architecture("qwen3_next", _TEXT | _EXPERTS | _DELTA | {"shared_expert_intermediate_size": 64}),
    "qwen3-embedding": Architecture("qwen3", _TEXT, options={"runner": "pooling", "convert": "embed"}),
    "qwen3-classifier": Architecture("qwen3", _TEXT | {"num_labels": 1}, "AutoModelForSequenceClassification"),
    "bert-embedding": Architecture("bert", _BERT, "AutoModel"),
    "bert-reranker": Architecture("bert", _BERT | {"num_labels": 1}, "AutoModelForSequenceClassification"),
    "bert-classifier": Architecture("bert", _BERT | {"num_labels": 3}, "AutoModelForSequenceClassification"),
}


def make(out: Path, names: Iterable[str]) -> None:
    """Write these architectures (or `large`) into folders under `out`."""
    command = [sys.executable, "-m", "tests.support.architectures", str(out), *names]
    environ = environment()
    environ["PYTHONPATH"] = os.pathsep.join([environ["PYTHONPATH"], str(ROOT)])
    subprocess.run(command, check=True, env=environ, capture_output=True, timeout=300)


def write(folder: Path, architecture: Architecture) -> None:
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(architecture.model_type, **architecture.config)
    model = getattr(transformers, architecture.auto).from_config(config).to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size=architecture.file)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(CHECKPOINT / file, folder)


if __name__ == "__main__":
    from neuron.engines.vllm import compat

    compat.mask()
    for name in sys.argv[2:]:
        write(Path(sys.argv[1]) / name, LARGE if name == "large" else ARCHITECTURES[name])

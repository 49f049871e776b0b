"""Checkpoints as their files describe them; what cannot be served says why."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from neuron.sizing.cache import Layers
from neuron.sizing.checkpoints import fingerprint, list_checkpoints, read_checkpoint
from tools.tinymodel.fleet import CHECKPOINT

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "hidden_size": 256,
    "max_position_embeddings": 2048,
    "torch_dtype": "bfloat16",
}


def safetensors(path: Path, size: int = 1024) -> None:
    header = json.dumps({"__metadata__": {}, "w": {"dtype": "BF16", "shape": [size // 2], "data_offsets": [0, size]}})
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(size))


def make(folder: Path, config: dict[str, Any] | None = None, *, weights: bool = True) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG if config is None else config))
    if weights:
        safetensors(folder / "model.safetensors")
    return folder


def test_a_plain_checkpoint(tmp_path: Path) -> None:
    facts = read_checkpoint(make(tmp_path / "m"), "m")
    assert facts.problem == ""
    assert (facts.architecture, facts.weights_bytes, facts.context) == ("LlamaForCausalLM", 1024, 2048)
    assert facts.layers == Layers(full=4, values=2 * 2 * (256 // 8))
    assert facts.kv_heads == 2


def test_the_tiny_model_is_what_it_is() -> None:
    facts = read_checkpoint(CHECKPOINT, "tiny")
    assert (facts.problem, facts.architecture) == ("", "LlamaForCausalLM")
    assert facts.weights_bytes < (CHECKPOINT / "model.safetensors").stat().st_size


@pytest.mark.parametrize(
    ("changes", "layers", "divisible"),
    [
        ({"head_dim": 64}, Layers(full=4, values=256), True),
        ({"num_key_value_heads": None}, Layers(full=4, values=512), True),
        ({"kv_lora_rank": 512, "qk_rope_head_dim": 64}, Layers(full=4, values=576), False),
        (
            {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 512},
            Layers(full=2, sliding=2, window=512, values=128),
            True,
        ),
        (
            {"layer_types": ["chunked_attention", "full_attention"] * 2, "attention_chunk_size": 64},
            Layers(full=2, sliding=2, window=64, values=128),
            True,
        ),
        ({"layer_types": ["sliding_attention"] * 4}, Layers(full=4, values=128), True),  # of what size?
        ({"sliding_window": 256}, Layers(sliding=4, window=256, values=128), True),  # Mistral
        ({"sliding_window": 256, "use_sliding_window": False}, Layers(full=4, values=128), True),  # Qwen2
        ({"sliding_window": None}, Layers(full=4, values=128), True),
        ({"num_attention_heads": None}, Layers(), True),  # Mamba
        ({"model_type": "bert"}, Layers(), True),  # reads a text once
        ({"model_type": "bert", "is_decoder": True}, Layers(full=4, values=128), True),
    ],
)
def test_what_the_cache_keeps(tmp_path: Path, changes: dict[str, Any], layers: Layers, divisible: bool) -> None:
    facts = read_checkpoint(make(tmp_path / "m", CONFIG | changes), "m")
    assert (facts.problem, facts.layers, facts.kv_divisible) == ("", layers, divisible)


MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 64, "mamba_d_state": 16, "mamba_n_groups": 1, "mamba_d_conv": 4}
MAMBA_STATE: dict[str, Any] = {"convolution": (512 + 2 * 16) * 3, "recurrent": 512 * 16}
DELTA = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 32, "linear_value_head_dim": 64,
         "linear_conv_kernel_dim": 4}  # fmt: skip
DELTA_STATE: dict[str, Any] = {"convolution": (2 * 64 + 256) * 3, "recurrent": 256 * 32}
ALONE = {"num_attention_heads": None, "state_size": 16, "conv_kernel": 4, "intermediate_size": 512}


@pytest.mark.parametrize(
    ("changes", "layers"),
    [
        (MAMBA | {"layer_types": ["mamba", "attention"] * 2}, Layers(full=2, values=128, states=2, **MAMBA_STATE)),
        (MAMBA | {"layer_types": ["linear_attention", "full_attention"] * 2, "mamba_d_head": "auto", "mamba_expand": 2},
         Layers(full=2, values=128, states=2, **MAMBA_STATE)),  # Granite 4
        (MAMBA, Layers(full=4, values=128, states=4, **MAMBA_STATE)),  # Falcon-H1: both in each
        (MAMBA | {"layers_block_type": ["mamba", "hybrid", "mamba", "mamba"]},
         Layers(full=1, values=128, states=4, **MAMBA_STATE)),  # Zamba 2
        ({"model_type": "nemotron_h", "hybrid_override_pattern": "M-M*", "mamba_num_heads": 8, "mamba_head_dim": 64,
          "ssm_state_size": 16, "n_groups": 1, "conv_kernel": 4, "expand": 9},
         Layers(full=1, values=128, states=2, recurrent_dtype="float32", **MAMBA_STATE)),
        ({"attn_layer_period": 4, "attn_layer_offset": 2, "mamba_d_state": 16, "mamba_d_conv": 4, "mamba_expand": 2},
         Layers(full=1, values=128, states=3, convolution=512 * 3, recurrent=512 * 16)),  # Jamba
        (DELTA | {"full_attention_interval": 4}, Layers(full=1, values=128, states=3, **DELTA_STATE)),  # Qwen3-Next
        (DELTA | {"layer_types": ["linear_attention", "full_attention"] * 2, "mamba_ssm_dtype": "float32"},
         Layers(full=2, values=128, states=2, recurrent_dtype="float32", **DELTA_STATE)),  # Qwen3.5
        ({"full_attn_idxs": [1], "conv_L_cache": 3}, Layers(full=1, values=128, states=3, convolution=2 * 256)),  # LFM2
        ({"layer_types": ["linear_attention", "full_attention"] * 2},
         Layers(full=2, values=128, states=2, convolution=9 * 256, recurrent=8 * 32 * 32)),
        (ALONE, Layers(states=4, convolution=512 * 3, recurrent=512 * 16)),  # Mamba
        (ALONE | {"num_heads": 8, "expand": 2, "n_groups": 1}, Layers(states=4, **MAMBA_STATE)),  # Mamba 2
    ],
)  # fmt: skip
def test_what_a_state_is(tmp_path: Path, changes: dict[str, Any], layers: Layers) -> None:
    facts = read_checkpoint(make(tmp_path / "m", CONFIG | changes), "m")
    assert (facts.problem, facts.layers) == ("", layers)


def test_the_decay_of_a_state_is_kept_in_full_precision(tmp_path: Path) -> None:
    tensors = {
        "a.A_log": {"dtype": "BF16", "shape": [8], "data_offsets": [0, 16]},
        "b.A_log": {"dtype": "F32", "shape": [8], "data_offsets": [16, 48]},
        "c.weight": {"dtype": "BF16", "shape": [8], "data_offsets": [48, 64]},
    }
    header = json.dumps(tensors).encode()
    folder = make(tmp_path / "m", weights=False)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(64))
    assert read_checkpoint(folder, "m").weights_bytes == 64 + 16


def test_the_inner_config_of_a_vision_model_counts(tmp_path: Path) -> None:
    outer = {"architectures": ["Vision"], "text_config": CONFIG}
    facts = read_checkpoint(make(tmp_path / "m", outer), "m")
    assert (facts.architecture, facts.context, facts.problem) == ("Vision", 2048, "")


def test_a_sentence_encoder_says_how_much_it_reads(tmp_path: Path) -> None:
    folder = make(tmp_path / "m")
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 256, "do_lower_case": false}')
    assert read_checkpoint(folder, "m").context == 256


def test_quantisation_is_read_from_the_config(tmp_path: Path) -> None:
    config = CONFIG | {"quantization_config": {"quant_method": "awq"}}
    assert read_checkpoint(make(tmp_path / "m", config), "m").quantization == "awq"


def truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def missing_shard(folder: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def header_of(content: bytes) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(content)) + content)

    return spoil


def replaced(file: str, content: bytes) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / file).write_bytes(content)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (truncated, "is truncated"),
        (missing_shard, "1 of its files are missing, the first model-2.safetensors"),
        (replaced("model.safetensors", b"x"), "truncated or no safetensors file"),
        (replaced("model.safetensors", b"\xff" * 16), "truncated or no safetensors file"),
        (header_of(b"[1]"), "broken header"),
        (header_of(b'{"w": {"data_offsets": 3}}'), "broken header"),
        (header_of(b'{"w": {"data_offsets": [0, "x"]}}'), "is truncated|broken header"),
        (replaced("config.json", b"{"), "config.json is not JSON"),
        (replaced("config.json", b"[]"), "config.json is not a JSON object"),
        (replaced("config.json", b"{}"), "names no architecture"),
        (replaced("config.json", b'{"auto_map": {"AutoModel": "x.Y"}, "architectures": ["X"]}'), "auto_map"),
        (replaced("tokenizer_config.json", b'{"auto_map": {}}'), "tokenizer_config.json names code of its own"),
        (replaced("model.safetensors.index.json", b"{}"), "has no weight_map"),
    ],
)
def test_a_spoiled_checkpoint_says_why(tmp_path: Path, spoil: Callable[[Path], None], words: str) -> None:
    folder = make(tmp_path / "m")
    spoil(folder)
    problem = read_checkpoint(folder, "m").problem
    assert any(part in problem for part in words.split("|")), problem


@pytest.mark.parametrize(
    ("file", "words"),
    [("pytorch_model.bin", "pickles"), ("model.gguf", "GGUF"), ("notes.txt", "no *.safetensors file")],
)
def test_only_safetensors_are_served(tmp_path: Path, file: str, words: str) -> None:
    folder = make(tmp_path / "m", weights=False)
    (folder / file).write_bytes(b"x")
    assert words in read_checkpoint(folder, "m").problem


def test_a_model_folder_is_listed_two_levels_deep(tmp_path: Path) -> None:
    make(tmp_path / "tiny")
    make(tmp_path / "Qwen" / "Qwen3-8B")
    make(tmp_path / "a" / "b" / "c")
    make(tmp_path / ".cache" / "hidden")
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "model.bin").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "tiny")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    assert [facts.name for facts in list_checkpoints(tmp_path)] == ["Qwen/Qwen3-8B", "link", "pickled", "tiny"]


def test_a_folder_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert list_checkpoints(tmp_path / "nowhere") == ()


def test_the_fingerprint_changes_with_the_folder(tmp_path: Path) -> None:
    make(tmp_path / "one")
    before = fingerprint(tmp_path)
    assert fingerprint(tmp_path) == before
    make(tmp_path / "two")
    assert fingerprint(tmp_path) != before

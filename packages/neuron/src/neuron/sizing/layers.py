"""What a model's layers keep, read from its config.json: per token, or as a state of constant size. Pure.

The sizes of states are those of vLLM's `model_executor/layers/mamba/mamba_utils.py`.
"""

from __future__ import annotations

from typing import Any

from neuron.sizing.cache import Layers

ENCODERS = frozenset({"bert", "roberta", "xlm-roberta", "modernbert", "distilbert", "nomic_bert", "new"})
_STATES = ("linear", "mamba", "conv", "recurrent", "hybrid", "M")  # what a layer with a state is called
_TOKENS = ("attention", "sliding", "chunked", "hybrid", "*")  # and one that attends; a hybrid one does both


def read_layers(config: dict[str, Any]) -> tuple[Layers, bool, int]:
    """The layers, whether tensor parallel divides what they keep for each token, and among how many heads."""
    if _is_encoder(config):
        return Layers(), True, 1
    names = _names(config)
    window = integer(config, "sliding_window", "attention_chunk_size")
    attend = [name for name in names if "linear" not in name and any(word in name for word in _TOKENS)]
    sliding = sum("sliding" in name or "chunked" in name for name in attend) if window else 0
    states = sum(any(word in name for word in _STATES) for name in names)
    convolution, recurrent = _state(config) if states else (0, 0)
    divisible, values, kv_heads = _values(config)
    layers = Layers(
        full=len(attend) - sliding,
        sliding=sliding,
        window=window if sliding else 0,
        values=values if attend else 0,
        states=states,
        convolution=convolution,
        recurrent=recurrent,
        recurrent_dtype=_recurrent_dtype(config) if states else "",
    )
    return layers, divisible, kv_heads


def integer(config: dict[str, Any], *keys: str) -> int:
    """The first of these that is a positive number; else 0."""
    found = (config.get(key) for key in keys)
    return next((v for v in found if isinstance(v, int) and not isinstance(v, bool) and v > 0), 0)


def _is_encoder(config: dict[str, Any]) -> bool:
    """Whether it reads a text once and whole, and so caches nothing."""
    return config.get("model_type") in ENCODERS and config.get("is_decoder") is not True


def _names(config: dict[str, Any]) -> list[str]:
    """What each layer is called: every family says it in its own way, or not at all."""
    for key in ("layer_types", "layers_block_type", "hybrid_override_pattern"):
        if isinstance(said := config.get(key), list | str) and said:
            return [str(kind) for kind in said]
    count = integer(config, "num_hidden_layers", "n_layer")
    for key in ("attn_layer_indices", "full_attn_idxs"):
        if isinstance(indices := config.get(key), list):
            return ["attention" if index in indices else "mamba" for index in range(count)]
    if period := integer(config, "attn_layer_period"):  # Jamba
        offset = integer(config, "attn_layer_offset")
        return ["attention" if index % period == offset else "mamba" for index in range(count)]
    if interval := integer(config, "full_attention_interval"):  # Qwen3-Next
        return ["linear_attention" if (index + 1) % interval else "attention" for index in range(count)]
    if not integer(config, "num_attention_heads", "n_head"):
        return ["mamba" if integer(config, "state_size") else ""] * count
    if integer(config, "mamba_d_state"):  # Falcon-H1: in every layer both, side by side
        return ["hybrid"] * count
    slides = config.get("use_sliding_window") is not False and integer(config, "sliding_window")
    return ["sliding_attention" if slides else "attention"] * count


def _values(config: dict[str, Any]) -> tuple[bool, int, int]:
    """Whether tensor parallel divides what a layer keeps for a token, how many numbers that is, of how many heads."""
    if rank := integer(config, "kv_lora_rank"):
        return False, rank + integer(config, "qk_rope_head_dim"), 1
    heads = integer(config, "num_attention_heads", "n_head")
    kv_heads = integer(config, "num_key_value_heads") or heads
    return True, 2 * kv_heads * _head_dim(config, heads), kv_heads or 1


def _head_dim(config: dict[str, Any], heads: int) -> int:
    return integer(config, "head_dim") or integer(config, "hidden_size", "n_embd") // max(1, heads)


def _state(config: dict[str, Any]) -> tuple[int, int]:
    """Numbers that one layer keeps for each request: of its convolution, and of its recurrence."""
    hidden = integer(config, "hidden_size")
    before = max(0, integer(config, "mamba_d_conv", "linear_conv_kernel_dim", "conv_L_cache", "conv_kernel") - 1)
    if value_heads := integer(config, "linear_num_value_heads"):  # gated delta nets
        key_dim, value_dim = integer(config, "linear_key_head_dim"), integer(config, "linear_value_head_dim")
        keys, values = integer(config, "linear_num_key_heads") * key_dim, value_heads * value_dim
        return (2 * keys + values) * before, values * key_dim
    if size := integer(config, "mamba_d_state", "ssm_state_size", "state_size"):
        heads = integer(config, "mamba_n_heads", "mamba_num_heads", "n_mamba_heads", "num_heads")
        inner = heads * integer(config, "mamba_d_head", "mamba_head_dim", "mamba_headdim")
        inner = inner or integer(config, "mamba_d_ssm") or integer(config, "mamba_expand", "expand") * hidden
        inner = inner or integer(config, "intermediate_size")
        groups = integer(config, "mamba_n_groups", "mamba_ngroups", "n_groups") if heads else 0  # Mamba 2
        return (inner + 2 * groups * size) * before, inner * size
    if integer(config, "conv_L_cache"):  # LFM2: nothing but a short convolution
        return hidden * before, 0
    heads = integer(config, "num_attention_heads")  # linear attention of other kinds
    dim = _head_dim(config, heads)
    return 9 * heads * dim, heads * dim * dim


def _recurrent_dtype(config: dict[str, Any]) -> str:
    usual = "float32" if config.get("model_type") == "nemotron_h" else ""
    return str(config.get("mamba_ssm_dtype") or config.get("mamba_ssm_cache_dtype") or usual)

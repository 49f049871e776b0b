"""A checkpoint of random weights, large enough that computing is what takes an engine's time on a CPU."""

from __future__ import annotations

import json
import random
from pathlib import Path

from tools.tinymodel.fleet import CHECKPOINT

LAYERS, HIDDEN, INNER, HEADS = 8, 512, 2048, 8
_TWO_BYTES = 2  # of a weight, bfloat16


def make_large(folder: Path) -> None:
    """Write it: the tiny model's tokenizer and template, 34 million parameters, always the same ones."""
    folder.mkdir(parents=True)
    for source in CHECKPOINT.iterdir():
        if source.suffix != ".safetensors" and source.name != "config.json":
            (folder / source.name).write_bytes(source.read_bytes())
    config = json.loads((CHECKPOINT / "config.json").read_text())
    shape = {
        "num_hidden_layers": LAYERS,
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "head_dim": HIDDEN // HEADS,
    }
    heads = {"num_attention_heads": HEADS, "num_key_value_heads": HEADS, "head_dim": HIDDEN // HEADS}
    kind = {"dtype": "bfloat16", "torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config | shape | heads | kind))
    _write(folder / "model.safetensors", _shapes(config["vocab_size"]))


def _shapes(vocabulary: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocabulary, HIDDEN),
        "model.norm.weight": (HIDDEN,),
    }
    for layer in range(LAYERS):
        name = f"model.layers.{layer}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{name}.{norm}.weight"] = (HIDDEN,)
        for part in "qkvo":
            shapes[f"{name}.self_attn.{part}_proj.weight"] = (HIDDEN, HIDDEN)
        for part in ("gate", "up"):
            shapes[f"{name}.mlp.{part}_proj.weight"] = (INNER, HIDDEN)
        shapes[f"{name}.mlp.down_proj.weight"] = (HIDDEN, INNER)
    return shapes


def _write(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """safetensors: eight bytes of length, a header, the tensors one after another."""
    header, at = {}, 0
    for name, shape in shapes.items():
        size = _TWO_BYTES * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    head = json.dumps(header).encode()
    dice = random.Random(1)
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for shape in shapes.values():
            file.write(_one(shape[0]) if len(shape) == 1 else _small(shape[0] * shape[1], dice))


def _one(count: int) -> bytes:
    return b"\x80\x3f" * count


def _small(count: int, dice: random.Random) -> bytes:
    """Numbers of either sign between 1/64 and 1/32: an exponent of 121, random sign and fraction."""
    block = bytearray(dice.randbytes(_TWO_BYTES * min(count, 1 << 16)))
    for high in range(1, len(block), 2):
        block[high] = block[high] & 0x80 | 0x3C
    for low in range(0, len(block), 2):
        block[low] |= 0x80
    return (bytes(block) * -(-_TWO_BYTES * count // len(block)))[: _TWO_BYTES * count]

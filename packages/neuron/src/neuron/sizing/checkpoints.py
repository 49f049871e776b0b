"""What lies in the model folder, read from headers and JSON alone: no tensor is loaded and no code of a model runs.

Format of a safetensors header: https://github.com/huggingface/safetensors (eight bytes length, then JSON).
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct

from neuron.sizing.cache import Layers
from neuron.sizing.layers import integer, read_layers

HEADER_LIMIT = 100_000_000  # bytes; the format's own limit
JSON_LIMIT = 50_000_000  # bytes of config.json or of an index
FOLDER_LIMIT = 1000  # checkpoints listed; a model folder is no archive
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
DECAY = ".A_log"  # of a state: engines keep these few numbers in full precision
CODE_FILES = ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json")


class Facts(Struct, frozen=True, kw_only=True):
    """A checkpoint as its files describe it. Bytes are bytes of the whole model, undivided."""

    name: str  # the folder, relative to the model folder
    path: Path
    architecture: str = ""
    weights_bytes: int = 0
    context: int = 0  # tokens; 0: the checkpoint does not say
    layers: Layers = Layers()  # that keep something
    kv_divisible: bool = True  # whether tensor parallel splits the cache (MLA's is copied)
    kv_heads: int = 1
    dtype: str = ""
    quantization: str = ""
    problem: str = ""


class Unusable(Exception):
    """Why a checkpoint cannot be served, for people."""


def list_checkpoints(models_dir: Path) -> tuple[Facts, ...]:
    """Every folder with a config.json, one or two levels deep, by name. Hidden folders are left out."""
    found = []
    for folder in _folders(models_dir):
        if _is(Path.is_file, folder / "config.json") or _is(_has_weights, folder):
            found.append(read_checkpoint(folder, folder.relative_to(models_dir).as_posix()))
        if len(found) == FOLDER_LIMIT:
            break
    return tuple(found)


def read_checkpoint(folder: Path, name: str) -> Facts:
    """One checkpoint; what is wrong with it stands in `problem`, and is never an exception."""
    facts = Facts(name=name, path=folder)
    try:
        return _read(folder, name)
    except Unusable as error:
        problem = str(error)
    except OSError as error:
        problem = f"{error.filename or folder.name} cannot be read: {error.strerror or error}"
    return Facts(name=facts.name, path=folder, problem=problem)


def fingerprint(models_dir: Path) -> int:
    """Changes when a checkpoint appears, disappears or is written to; cheap enough to ask every few seconds."""
    seen = []
    for folder in _folders(models_dir):
        try:
            with os.scandir(folder) as entries:
                seen += [(e.path, e.stat().st_mtime_ns, e.stat().st_size) for e in entries if e.is_file()]
        except OSError:
            continue
    return hash(tuple(sorted(seen)))


def readable(models_dir: Path) -> bool:
    return os.access(models_dir, os.R_OK | os.X_OK)


def _folders(models_dir: Path) -> Iterator[Path]:
    for first in _subfolders(models_dir):
        yield first
        if not _is(Path.is_file, first / "config.json"):
            yield from _subfolders(first)


def _subfolders(folder: Path) -> list[Path]:
    try:
        names = sorted(folder.iterdir())
    except OSError:
        return []
    return [path for path in names if not path.name.startswith(".") and _is(Path.is_dir, path)]


def _is(what: Callable[[Path], bool], path: Path) -> bool:
    """False also for what may not even be looked at."""
    try:
        return what(path)
    except OSError:
        return False


def _has_weights(folder: Path) -> bool:
    return any(path.suffix in (".safetensors", ".gguf", *PICKLES) for path in folder.iterdir() if path.is_file())


def _read(folder: Path, name: str) -> Facts:
    for file in CODE_FILES:
        if (folder / file).is_file() and "auto_map" in _json(folder / file):
            raise Unusable(f"{file} names code of its own (auto_map), and code of a checkpoint is never run")
    shards = sorted(folder.glob("*.safetensors"))
    if not shards:
        raise Unusable(_why_no_weights(folder))
    if not (folder / "config.json").is_file():
        raise Unusable("config.json is missing")
    _check_shards(folder, shards)
    config = _json(folder / "config.json")
    inner = config.get("text_config")
    text = inner if isinstance(inner, dict) else config
    architectures = config.get("architectures")
    if not (isinstance(architectures, list) and architectures and isinstance(architectures[0], str)):
        raise Unusable("config.json names no architecture")
    layers, divisible, heads = read_layers(text)
    quantization = config.get("quantization_config") or text.get("quantization_config") or {}
    return Facts(
        name=name,
        path=folder,
        architecture=architectures[0],
        weights_bytes=sum(_weights_bytes(shard) for shard in shards),
        context=_context(folder, text),
        layers=layers,
        kv_divisible=divisible,
        kv_heads=heads,
        dtype=str(text.get("dtype") or text.get("torch_dtype") or config.get("torch_dtype") or ""),
        quantization=str(quantization.get("quant_method", "")) if isinstance(quantization, dict) else "",
    )


def _context(folder: Path, text: dict[str, Any]) -> int:
    """What it was made for; sentence encoders say less in a file of their own, and engines go by that."""
    context = integer(text, "max_position_embeddings", "n_positions")
    sentences = folder / "sentence_bert_config.json"
    most = integer(_json(sentences), "max_seq_length") if sentences.is_file() else 0
    return min(context, most) if context and most else context or most


def _why_no_weights(folder: Path) -> str:
    suffixes = {path.suffix for path in folder.iterdir()}
    if suffixes & set(PICKLES):
        return "its weights are pickles, which can run code when they are loaded; safetensors only"
    if ".gguf" in suffixes:
        return "its weights are GGUF; safetensors only"
    return "it has no *.safetensors file"


def _check_shards(folder: Path, shards: list[Path]) -> None:
    """An index lists every shard, so a download that is not complete is seen before a load."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return
    wanted = _json(index).get("weight_map")
    if not isinstance(wanted, dict):
        raise Unusable(f"{index.name} has no weight_map")
    missing = sorted({str(file) for file in wanted.values()} - {shard.name for shard in shards})
    if missing:
        raise Unusable(f"{len(missing)} of its files are missing, the first {missing[0]}")


def _weights_bytes(shard: Path) -> int:
    size = shard.stat().st_size
    with shard.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= length <= HEADER_LIMIT or length + 8 > size:
            raise Unusable(f"{shard.name} is truncated or no safetensors file")
        try:
            header = json.loads(file.read(length))
            tensors = {name: tensor for name, tensor in header.items() if name != "__metadata__"}
            end = max((int(tensor["data_offsets"][1]) for tensor in tensors.values()), default=0)
            widened = sum(_widened(tensor) for name, tensor in tensors.items() if name.endswith(DECAY))
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
            raise Unusable(f"{shard.name} has a broken header") from error
    if end < 0 or 8 + length + end > size:
        raise Unusable(f"{shard.name} is truncated: {size} bytes, and its header speaks of {8 + length + end}")
    return end + widened


def _widened(tensor: dict[str, Any]) -> int:
    """What half precision takes more of when it is computed with in full."""
    begin, end = tensor["data_offsets"]
    return int(end) - int(begin) if tensor.get("dtype") in ("BF16", "F16") else 0


def _json(path: Path) -> dict[str, Any]:
    if path.stat().st_size > JSON_LIMIT:
        raise Unusable(f"{path.name} is larger than {JSON_LIMIT} bytes")
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise Unusable(f"{path.name} is not JSON") from error
    if not isinstance(value, dict):
        raise Unusable(f"{path.name} is not a JSON object")
    return value

"""A first configuration: commented files, with what can be found out here already filled in."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cortex_cli.failures import Failure
from cortex_core.config import Catalogue, CortexConfig, NeuronConfig
from cortex_core.config.described import NOT_SHOWN, Key, keys, toml
from cortex_core.neuron_api import Discovery

WIDTH = 118  # what fits into 120 columns when it is commented out
LOCAL = "http://127.0.0.1:13131"
MIN_DEVICE_MB = 1024

_EXAMPLES: Mapping[tuple[str, str], Any] = {
    ("neurons[]", "name"): "beast",
    ("neurons[]", "endpoint"): LOCAL,
    ("models[]", "id"): "Qwen/Qwen3-8B",
    ("models[]", "residency_priority"): 100,
    ("devices[]", "id"): "cpu:0",
    ("devices[]", "memory_mb"): 4096,
}

CORTEX_HEAD = """\
# The gateway: /etc/cortex/cortex.toml. Every key is shown, with its default unless it was found out. Environment
# variables go over the file: CORTEX_GATEWAY__LISTEN=127.0.0.1:8080. `cortex config check` says whether it can be used.
"""
MODELS_HEAD = """\
# The catalogue: /etc/cortex/models.toml. One [[models]] table for each model, of which only the id is needed. Without
# any the gateway serves what lies in the neurons' model folders.
"""
NEURON_HEAD = """\
# The neuron: /etc/neuron/neuron.toml. Every key is shown, with its default unless it was found out. Environment
# variables go over the file: NEURON_NEURON__LISTEN=127.0.0.1:13131. `cortex config check neuron` says whether it holds.
"""


class Files(NamedTuple):
    """What `init` writes, and what it has to say."""

    texts: Mapping[str, str]
    remarks: Sequence[str]


def of_cortex(urls: Sequence[str]) -> Files:
    """cortex.toml and models.toml. Each neuron is asked; without any, the one that this host may have."""
    remarks: list[str] = []
    neurons, models = [], dict[str, None]()
    for number, url in enumerate(urls or [LOCAL], 1):
        name = "localhost" if url == LOCAL else f"neuron-{number}"
        try:
            told = discovery(url)
        except Failure as failure:
            remarks.append(f"{failure.message}; it is written down as `{name}` all the same")
        else:
            name = told.name
            models |= dict.fromkeys(one.name for one in told.checkpoints if not one.problem)
        neurons.append({"name": name, "endpoint": url})
    return Files({"cortex.toml": cortex_toml(neurons), "models.toml": models_toml(models)}, remarks)


def of_neuron() -> Files:
    """neuron.toml for this host."""
    remarks = []
    known: dict[str, Any] = {}
    if not any(Path(path).exists() for path in ("/dev/nvidiactl", "/proc/driver/nvidia", "/dev/dxg")):
        half = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 21
        known["devices[]"] = [{"id": "cpu:0", "memory_mb": max(MIN_DEVICE_MB, half)}]
        remarks.append(
            f"no NVIDIA driver here: the processor is declared as a device, with {half} MiB, half the memory"
        )
    name = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname().partition(".")[0]).strip("-._")[:64]
    known["neuron"] = {"name": name}
    return Files({"neuron.toml": neuron_toml(known)}, remarks)


def cortex_toml(neurons: Sequence[Mapping[str, str]] = ({"name": "localhost", "endpoint": LOCAL},)) -> str:
    return CORTEX_HEAD + commented(CortexConfig, {"": {"models_config": "models.toml"}, "neurons[]": neurons})


def models_toml(ids: Iterable[str] = ()) -> str:
    return MODELS_HEAD + commented(Catalogue, {"models[]": [{"id": model} for model in ids]})


def neuron_toml(known: Mapping[str, Any] = {}) -> str:
    return NEURON_HEAD + commented(NeuronConfig, known)


def discovery(url: str) -> Discovery:
    """What a neuron says it has. Raises Failure."""
    from cortex_cli.client import get, read

    token = os.environ.get("CORTEX_FLEET__TOKEN", "")
    return read(get(url, "/discovery", token=token, who="neuron"), Discovery, url)


def commented(kind: type[Any], known: Mapping[str, Any]) -> str:
    """A file with every key, what is known of it or else its default, and what it is for.

    `known` is table → key → value, and for tables in a list a list of those. A list without any is shown as a comment.
    """
    tables: dict[str, list[Key]] = {}
    for key in keys(kind):
        if key.name not in NOT_SHOWN and not key.table.endswith(".sim"):
            tables.setdefault(key.table, []).append(key)
    parts = []
    for table, members in tables.items():
        if table.endswith("[]"):
            parts += _repeated(table.removesuffix("[]"), members, known.get(table, ()))
            continue
        values = known.get(table, {})
        plain = [one for one in members if table or one.kind != "table"]
        lines = [line for one in plain for line in _lines(one, values.get(one.name, one.default))]
        parts.append("\n".join([f"[{table}]", *lines] if table else lines))
        parts += [f"[{one.name}]  # {one.description}" for one in members if one not in plain]
    return "\n" + "\n\n".join(parts) + "\n"


def _repeated(table: str, members: Sequence[Key], entries: Iterable[Mapping[str, Any]]) -> list[str]:
    """Each entry with what is known, the first one also with everything else that could be said, as comments."""
    parts: list[str] = []
    for entry in entries:
        lines = [line for one in members if one.name in entry for line in _lines(one, entry[one.name])]
        if not parts:
            lines += [f"# {line}" for one in members if one.name not in entry for line in _lines(one, _shown(one))]
        parts.append("\n".join([f"[[{table}]]", *lines]))
    every = [f"# {line}" for one in members for line in _lines(one, _shown(one))]
    return parts or ["\n".join([f"# [[{table}]]", *every])]


def _shown(key: Key) -> Any:
    """A value to show where there is no default."""
    return _EXAMPLES[key.table, key.name] if key.default is None else key.default


def _lines(key: Key, value: Any) -> list[str]:
    line = f"{key.name} = {toml(value)}"
    one = f"{line}  # {key.description}" if key.description else line
    return [one] if len(one) <= WIDTH else [f"# {key.description}", line]

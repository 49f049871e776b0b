"""Prometheus' text format 0.0.4: written, and merged from several engines. Pure.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from msgspec import Struct

_SAMPLE = re.compile(r"([A-Za-z_:][A-Za-z0-9_:]*)(\{.*\})?\s+(\S+)")
_SUFFIXES = ("_bucket", "_sum", "_count", "_created", "_total")


class Family(Struct, kw_only=True):
    """A metric with its samples, each a whole line."""

    name: str
    kind: str = "untyped"
    help: str = ""
    samples: list[str] = []


def sample(name: str, labels: Mapping[str, str], value: float) -> str:
    inside = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
    number = str(int(value)) if value == int(value) else repr(value)
    return f"{name}{{{inside}}} {number}" if inside else f"{name} {number}"


def render(families: Iterable[Family]) -> bytes:
    lines: list[str] = []
    for family in families:
        if family.help:
            lines.append(f"# HELP {family.name} {family.help}")
        lines.append(f"# TYPE {family.name} {family.kind}")
        lines += family.samples
    return ("\n".join(lines) + "\n").encode()


def merge(texts: Mapping[str, str], prefixes: tuple[str, ...]) -> list[Family]:
    """Several engines' texts as one: a family stands once, its samples carry `model_name`.

    Args:
        texts: model → what its engine exposes.
        prefixes: of the families to keep; a process's own figures (`python_`, `process_`) would collide.
    """
    families: dict[str, Family] = {}
    for model, text in texts.items():
        for line in text.splitlines():
            if line.startswith("# "):
                _describe(families, line, prefixes)
            elif line and line.startswith(prefixes) and (match := _SAMPLE.match(line)):
                name, labels, value = match.groups()
                family = _family_of(families, name)
                family.samples.append(f"{name}{_labelled(labels or '', model)} {value}")
    return [family for family in families.values() if family.samples]


def values(text: str, suffixes: tuple[str, ...]) -> float:
    """The sum of all samples whose name ends so."""
    total = 0.0
    for line in text.splitlines():
        match = _SAMPLE.match(line)
        if match and match[1].endswith(suffixes):
            total += float(match[3])
    return total


def _describe(families: dict[str, Family], line: str, prefixes: tuple[str, ...]) -> None:
    _, what, name, *rest = line.split(" ", 3)
    if not name.startswith(prefixes) or what not in {"HELP", "TYPE"}:
        return
    family = families.setdefault(name, Family(name=name, samples=[]))
    if what == "HELP":
        family.help = rest[0] if rest else ""
    else:
        family.kind = rest[0] if rest else "untyped"


def _family_of(families: dict[str, Family], name: str) -> Family:
    if name in families:
        return families[name]
    for suffix in _SUFFIXES:
        if name.endswith(suffix) and name.removesuffix(suffix) in families:
            return families[name.removesuffix(suffix)]
    return families.setdefault(name, Family(name=name, samples=[]))


def _labelled(labels: str, model: str) -> str:
    if 'model_name="' in labels:
        return labels
    inside = labels.strip("{}")
    return f'{{{inside}{"," if inside else ""}model_name="{_escaped(model)}"}}'


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

"""What is wrong with a file, in words: the table and the key, the problem, and what helps."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from msgspec import inspect


class Words(NamedTuple):
    where: str
    problem: str
    hint: str


def explained(message: str, kind: type[Any]) -> Words:
    """msgspec's message about a value of this kind, with its JSON path turned into table and key."""
    match = _AT.match(message)
    problem, path = (match["problem"], match["path"] or "$") if match else (message, "$")
    steps = [key or (int(index) if index != "..." else "?") for key, index in _STEP.findall(path)]
    if unknown := _UNKNOWN.search(problem):
        key = unknown["key"]
        known = [field.encode_name for field in fields(_kind_at(steps, kind))]
        return Words(_where(steps, key), "unknown key", nearest(key, known))
    if missing := _MISSING.search(problem):
        key = missing["key"]
        return Words(_where(steps, key), "is required", _hint(_field(steps, key, kind), _kind_at([*steps, key], kind)))
    key = str(steps.pop()) if steps and isinstance(steps[-1], str) else ""
    field = _field(steps, key, kind)
    at = _kind_at([*steps, key] if key else steps, kind)
    return Words(_where(steps, key), _plain(problem, field), _hint(field, at))


def place(text: str, message: str) -> str:
    """Where a file stops being TOML, from the parser's message: line, and table and key where they can be read."""
    found = re.search(r"at line (\d+)", message)
    lines = text.splitlines()
    number = int(found[1]) if found else max(1, len(lines))
    table = key = ""
    for line in lines[:number]:
        if head := re.match(r"\s*(\[\[?[^\[\]]+\]?\])", line):
            table, key = head[1], ""
        elif name := re.match(r"\s*([\w.\-]+)\s*=", line):
            key = name[1]
    return " ".join(filter(None, (f"line {number}", table, key)))


def bare(kind: inspect.Type) -> inspect.Type:
    """Without the description that an annotation may have wrapped around it."""
    return kind.type if isinstance(kind, inspect.Metadata) else kind


def fields(kind: inspect.Type) -> tuple[inspect.Field, ...]:
    kind = bare(kind)
    return kind.fields if isinstance(kind, inspect.StructType) else ()


def nearest(key: str, known: Iterable[str]) -> str:
    names = list(known)
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean `{close[0]}`?"
    return f"known here: {', '.join(names)}" if names else "nothing is known here"


_AT = re.compile(r"^(?P<problem>.*?)(?: - at `(?P<path>\$[^`]*)`)?$", re.DOTALL)
_UNKNOWN = re.compile(r"unknown field `(?P<key>[^`]*)`")
_MISSING = re.compile(r"missing required field `(?P<key>[^`]*)`")
_STEP = re.compile(r"\.([A-Za-z0-9_]+)|\[(\d+|\.\.\.)\]")


def _plain(problem: str, field: inspect.Field | None) -> str:
    """For people: a regular expression is named by what it stands for."""
    if "matching regex" in problem and field and isinstance(field.type, inspect.Metadata):
        said = field.type.extra_json_schema or {}
        return f"expected {said.get('title', problem)}"
    return problem[0].lower() + problem[1:] if problem else problem


def _hint(field: inspect.Field | None, kind: inspect.Type) -> str:
    """How it is written, what it is for, and what it is when nothing is said."""
    says = []
    match bare(kind):
        case inspect.LiteralType() as one:
            says.append(f"one of {', '.join(str(value) for value in sorted(one.values, key=str))}")
        case inspect.StructType() as table:
            says.append(f"a table with {', '.join(one.encode_name for one in table.fields)}")
        case inspect.VarTupleType() as items if isinstance(bare(items.item_type), inspect.StructType):
            says.append(f"written as [[{field.encode_name}]]" if field else "written as [[…]]")
        case inspect.VarTupleType():
            says.append("a list in [ ]")
        case inspect.BoolType():
            says.append("true or false")
        case inspect.IntType() | inspect.FloatType():
            says.append("a number, without quotes")
        case _:
            says.append("text, in quotes")
    if field and isinstance(field.type, inspect.Metadata):
        says.append((field.type.extra_json_schema or {}).get("description", ""))
    if field and isinstance(field.default, str | int | float) and field.default != "":
        shown = str(field.default).lower() if isinstance(field.default, bool) else field.default
        says.append(f"{shown} when it is left out")
    return "; ".join(filter(None, says))


def _where(steps: list[Any], key: str) -> str:
    """`['neurons', 0]`, `'name'` → `[[neurons]] #1 name`."""
    table = ""
    for position, step in enumerate(steps):
        if isinstance(step, int):
            continue
        following = steps[position + 1] if position + 1 < len(steps) else None
        if isinstance(following, int):
            table += f"[[{step}]] #{following + 1} "
        else:
            table += f"[{step}] "
    return (table + key).strip()


def _field(steps: list[Any], key: str, kind: type[Any]) -> inspect.Field | None:
    """The field that is at fault; of an item of a list, the list's."""
    names = [step for step in steps if isinstance(step, str)]
    if not key and names:
        key, steps = names[-1], steps[: steps.index(names[-1])]
    return next((field for field in fields(_kind_at(steps, kind)) if field.encode_name == key), None)


def _kind_at(steps: list[Any], kind: type[Any]) -> inspect.Type:
    at = bare(inspect.type_info(kind))
    for step in steps:
        if isinstance(at, inspect.StructType) and isinstance(step, str):
            at = next((field.type for field in at.fields if field.encode_name == step), inspect.AnyType())
        elif isinstance(at, inspect.VarTupleType | inspect.ListType):
            at = at.item_type
        elif isinstance(at, inspect.DictType):
            at = at.value_type
        at = bare(at)
    return at

"""TOML and environment → a struct; every error names file, table, key and the nearest known key."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

T = TypeVar("T")


class ConfigError(Exception):
    """A configuration that cannot be used.

    Args:
        source: the file, or the environment variable, at fault.
        where: table and key, such as `[gateway] listen`; empty when the file as a whole is meant.
        problem: what is wrong with it.
        hint: what was probably meant.
    """

    def __init__(self, source: str, where: str, problem: str, hint: str = "") -> None:
        self.source, self.where, self.problem, self.hint = source, where, problem, hint
        text = f"{source}: {where + ': ' if where else ''}{problem}{'; ' if hint else ''}{hint}"
        one_line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)  # whatever a quoted key holds
        super().__init__(one_line)


def read_toml(path: Path) -> dict[str, Any]:
    """The file as plain values.

    Raises:
        ConfigError: unreadable, not UTF-8, or not TOML (with line and column).
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(str(path), "", f"cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), "", f"is not UTF-8 (byte {error.start})") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(str(path), "", f"is not TOML: {error}") from error
    except RecursionError as error:
        raise ConfigError(str(path), "", "is nested too deeply") from error
    except ValueError as error:  # of pathlib: a NUL in the path
        raise ConfigError(str(path), "", f"cannot be read: {error}") from error


def convert(values: Mapping[str, Any], kind: type[T], source: str) -> T:
    """Plain values as a struct, strictly.

    Raises:
        ConfigError: naming table and key.
    """
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        raise _explained(str(error), kind, source) from error


def over(values: dict[str, Any], kind: type[Any], prefix: str, environ: Mapping[str, str]) -> dict[str, Any]:
    """The same values with the environment over them: `PREFIX_TABLE__KEY=value`, lists and numbers as TOML.

    A name without `__` that is no top-level key belongs to somebody else and is left alone.

    Raises:
        ConfigError: an unknown key, or a value that its type cannot be read from.
    """
    result = dict(values)
    for name in sorted(environ):
        if not name.startswith(prefix + "_"):
            continue
        path = name[len(prefix) + 1 :].lower().split("__")
        known = {field.encode_name: field for field in _fields(inspect.type_info(kind))}
        if len(path) == 1 and path[0] not in known:
            continue
        _set(result, path, environ[name], inspect.type_info(kind), name)
    return result


def _set(values: dict[str, Any], path: list[str], text: str, kind: inspect.Type, name: str) -> None:
    known = {field.encode_name: field.type for field in _fields(kind)}
    if path[0] not in known:
        raise ConfigError(name, "", f"unknown key `{path[0]}`", _nearest(path[0], known))
    if len(path) > 1:
        table = values.get(path[0])
        values[path[0]] = table = dict(table) if isinstance(table, dict) else {}
        _set(table, path[1:], text, known[path[0]], name)
    elif isinstance(_bare(known[path[0]]), inspect.StrType):
        values[path[0]] = text
    else:
        try:
            values[path[0]] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(name, "", f"cannot be read as a TOML value: {error}") from error


def _bare(kind: inspect.Type) -> inspect.Type:
    """Without the description that an annotation may have wrapped around it."""
    return kind.type if isinstance(kind, inspect.Metadata) else kind


def _fields(kind: inspect.Type) -> tuple[inspect.Field, ...]:
    kind = _bare(kind)
    return kind.fields if isinstance(kind, inspect.StructType) else ()


_AT = re.compile(r"^(?P<problem>.*?)(?: - at `(?P<path>\$[^`]*)`)?$", re.DOTALL)
_UNKNOWN = re.compile(r"unknown field `(?P<key>[^`]*)`")
_MISSING = re.compile(r"missing required field `(?P<key>[^`]*)`")
_STEP = re.compile(r"\.([A-Za-z0-9_]+)|\[(\d+|\.\.\.)\]")


def _explained(message: str, kind: type[Any], source: str) -> ConfigError:
    """msgspec's message with its JSON path turned into table and key."""
    match = _AT.match(message)
    problem, path = (match["problem"], match["path"] or "$") if match else (message, "$")
    steps = [key or int(index) if index != "..." else "?" for key, index in _STEP.findall(path)]
    if unknown := _UNKNOWN.search(problem):
        key = unknown["key"]
        known = [field.encode_name for field in _fields(_kind_at(steps, inspect.type_info(kind)))]
        return ConfigError(source, _where(steps, key), "unknown key", _nearest(key, known))
    if missing := _MISSING.search(problem):
        return ConfigError(source, _where(steps, missing["key"]), "is required")
    key = str(steps.pop()) if steps and isinstance(steps[-1], str) else ""
    field = next((f.type for f in _fields(_kind_at(steps, inspect.type_info(kind))) if f.encode_name == key), None)
    return ConfigError(source, _where(steps, key), _plain(problem, field))


def _plain(problem: str, field: inspect.Type | None) -> str:
    """For people: a regular expression is named by what it stands for."""
    if "matching regex" in problem and isinstance(field, inspect.Metadata) and field.extra_json_schema:
        return f"expected {field.extra_json_schema.get('description', problem)}"
    return problem[0].lower() + problem[1:] if problem else problem


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


def _kind_at(steps: list[Any], kind: inspect.Type) -> inspect.Type:
    for step in steps:
        kind = _bare(kind)
        if isinstance(kind, inspect.StructType) and isinstance(step, str):
            kind = next((field.type for field in kind.fields if field.encode_name == step), inspect.AnyType())
        elif isinstance(kind, inspect.VarTupleType | inspect.ListType):
            kind = kind.item_type
    return _bare(kind)


def _nearest(key: str, known: Iterable[str]) -> str:
    names = list(known)
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean `{close[0]}`?"
    return f"known here: {', '.join(names)}" if names else ""

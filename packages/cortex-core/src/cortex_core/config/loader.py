"""TOML and environment → a struct; every error names file, table, key and the nearest known key."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from cortex_core.config.explained import bare, explained, fields, nearest, place

T = TypeVar("T")
TAKEN = "each needs one of its own"
SYNTAX = "text stands in quotes, lists in [ ], and each key once, on a line of its own"
UNREADABLE = "`cortex config init` writes one; services read it as their own user"


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
    source = str(path)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(source, "", f"is not UTF-8 (byte {error.start})", "save it as UTF-8") from error
    except OSError as error:
        raise ConfigError(source, "", f"cannot be read: {error.strerror or error}", UNREADABLE) from error
    except ValueError as error:  # of pathlib: a NUL in the path
        raise ConfigError(source, "", f"cannot be read: {error}", UNREADABLE) from error
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(source, place(text, str(error)), f"is not TOML: {error}", SYNTAX) from error
    except RecursionError as error:
        raise ConfigError(source, "", "is nested too deeply", "no key of ours is deeper than three tables") from error


def convert(values: Mapping[str, Any], kind: type[T], source: str) -> T:
    """Plain values as a struct, strictly.

    Raises:
        ConfigError: naming table and key.
    """
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(source, *explained(str(error), kind)) from error


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
        known = {field.encode_name: field for field in fields(inspect.type_info(kind))}
        if len(path) == 1 and path[0] not in known:
            continue
        _set(result, path, environ[name], inspect.type_info(kind), name)
    return result


def _set(values: dict[str, Any], path: list[str], text: str, kind: inspect.Type, name: str) -> None:
    known = {field.encode_name: field.type for field in fields(kind)}
    if path[0] not in known:
        raise ConfigError(name, "", f"unknown key `{path[0]}`", nearest(path[0], known))
    if len(path) > 1:
        table = values.get(path[0])
        values[path[0]] = table = dict(table) if isinstance(table, dict) else {}
        _set(table, path[1:], text, known[path[0]], name)
    elif isinstance(bare(known[path[0]]), inspect.StrType):
        values[path[0]] = text
    else:
        try:
            values[path[0]] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError as error:
            hint = 'numbers, true, false, and lists as TOML writes them: 30, ["a", "b"]'
            raise ConfigError(name, "", f"cannot be read as a TOML value: {error}", hint) from error

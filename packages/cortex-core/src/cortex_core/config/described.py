"""The files' keys as data: what editors, examples and the reference are made from, so that none of them can drift."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import inspect

from cortex_core.config.explained import bare

SECRET = "token"  # its place is the environment, or a file of its own
NOT_SHOWN = frozenset({SECRET, "sim", "port"})  # and what is not for production, or only the original's


class Key(NamedTuple):
    """One key of a file."""

    table: str  # "gateway", "engine.sim"; "neurons[]" where it stands in each [[neurons]]; "" at the top
    name: str
    kind: str  # for people
    default: Any  # as TOML has it; None: there is none
    required: bool
    description: str


def keys(kind: type[Any]) -> list[Key]:
    """Every key of a file, tables in the order in which they are declared, keys before tables."""
    return list(_keys("", inspect.type_info(kind)))


def schema(kind: type[Any], title: str) -> dict[str, Any]:
    """JSON Schema (2020-12) of a file, for editors; without what has no place in a file."""
    (reference,), parts = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    for part in parts.values():
        properties = part.get("properties", {})
        properties.pop(SECRET, None)
        for one in properties.values():
            if "$ref" in one:
                del one["default"]  # each of the table's keys has its own
    whole = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, **reference, "$defs": parts}
    _for_editors(whole)
    return whole


def _for_editors(part: Any) -> None:
    """Their expressions are ECMA's, in which the end is `$`."""
    for key, value in part.items() if isinstance(part, dict) else ():
        if key == "pattern" and isinstance(value, str):
            part[key] = value.replace(r"\Z", "$")
        _for_editors(value)
    for value in part if isinstance(part, list) else ():
        _for_editors(value)


def _keys(table: str, kind: inspect.Type) -> Iterator[Key]:
    inner: list[tuple[str, inspect.Type]] = []
    assert isinstance(kind, inspect.StructType)
    for field in kind.fields:
        name = f"{table}.{field.encode_name}" if table else field.encode_name
        of = bare(field.type)
        if isinstance(of, inspect.StructType) and not table.endswith("[]"):
            inner.append((name, of))
        elif isinstance(of, inspect.VarTupleType) and isinstance(bare(of.item_type), inspect.StructType):
            inner.append((f"{name}[]", bare(of.item_type)))
        else:
            yield Key(table, field.encode_name, words(field.type), _default(field), field.required, _says(field.type))
    for name, of in inner:
        yield from _keys(name, of)


def words(kind: inspect.Type) -> str:
    """A type as people say it, with its bounds."""
    title = (kind.extra_json_schema or {}).get("title") if isinstance(kind, inspect.Metadata) else None
    match bare(kind):
        case inspect.LiteralType() as one:
            return " or ".join(f"`{value}`" for value in one.values)
        case inspect.UnionType() as union:
            return " or ".join(words(one) for one in union.types if not isinstance(one, inspect.NoneType))
        case inspect.VarTupleType() as items:
            return f"list of: {words(items.item_type)}"
        case inspect.DictType() | inspect.StructType():
            return "table"
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType() | inspect.FloatType() as number:
            low = [f"at least {number.ge:,}"] if number.ge is not None else []
            low += [f"more than {number.gt:,}"] if number.gt is not None else []
            high = [f"at most {number.le:,}"] if number.le is not None else []
            return ", ".join(["whole number" if isinstance(number, inspect.IntType) else "number", *low, *high])
        case _:
            return title or "text"


def _default(field: inspect.Field) -> Any:
    if field.required:
        return None
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    return msgspec.to_builtins(value)


def _says(kind: inspect.Type) -> str:
    return str((kind.extra_json_schema or {}).get("description", "")) if isinstance(kind, inspect.Metadata) else ""


def toml(value: Any) -> str:
    """A value on one line."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")
        case Mapping():
            inside = ", ".join(f"{_name(key)} = {toml(one)}" for key, one in value.items())
            return f"{{ {inside} }}" if inside else "{}"
        case Sequence():
            return f"[{', '.join(map(toml, value))}]"
        case _:
            return str(value)


def _name(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else toml(key)

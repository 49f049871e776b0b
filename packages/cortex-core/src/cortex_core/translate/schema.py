"""The shape of a JSON schema that an engine will turn into a grammar.

Malformed keywords have crashed engines (CVE-2025-48944: a `pattern` or `type` of the wrong type), so whatever becomes a
grammar is looked at first. What is only shown to the model is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec import Raw

from cortex_core.dialects.body import bad, loads, typed

MAX_DEPTH = 64
MAX_NODES = 20_000
_TYPES = frozenset(["string", "number", "integer", "boolean", "object", "array", "null"])
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")  # name → schema
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_INNER = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")
_STRINGS = ("pattern", "format", "$ref")
_NUMBERS = ("minLength", "maxLength", "minItems", "maxItems", "minimum", "maximum", "multipleOf")


def check(raw: Raw, where: str) -> None:
    """Raises CortexError, bad_request naming the keyword, for what is no schema."""
    _Walk(where).schema(typed(raw, loads, where), "", 0)


class _Walk:
    __slots__ = ("_left", "_where")

    def __init__(self, where: str) -> None:
        self._where = where
        self._left = MAX_NODES

    def schema(self, node: Any, path: str, depth: int) -> None:
        self._left -= 1
        if depth > MAX_DEPTH or self._left < 0:
            raise bad(self._where, f"is too large a schema: at most {MAX_DEPTH} levels and {MAX_NODES} parts")
        if isinstance(node, bool) and depth:
            return
        if not isinstance(node, dict):
            raise bad(self._where + path, "must be a schema: an object")
        self._keywords(node, path)
        for where, inner in self._inner(node, path):
            self.schema(inner, where, depth + 1)

    def _inner(self, node: dict[str, Any], path: str) -> Iterator[tuple[str, Any]]:
        """The schemas inside a schema, with their places."""
        for key in _NAMED:
            if not isinstance(node.get(key, {}), dict):
                raise bad(f"{self._where}{path}.{key}", "must be an object")
            yield from ((f"{path}.{key}.{name[:64]}", inner) for name, inner in node.get(key, {}).items())
        for key in _LISTS:
            if not isinstance(node.get(key, []), list):
                raise bad(f"{self._where}{path}.{key}", "must be an array")
            yield from ((f"{path}.{key}.{number}", inner) for number, inner in enumerate(node.get(key, [])))
        for key in _INNER:
            if key in node:
                several = node[key] if key == "items" and isinstance(node[key], list) else [node[key]]
                yield from ((f"{path}.{key}", inner) for inner in several)

    def _keywords(self, node: dict[str, Any], path: str) -> None:
        kinds = node.get("type", [])
        for kind in kinds if isinstance(kinds, list) else [kinds]:
            if isinstance(kind, str) and kind in _TYPES:
                continue
            raise bad(f"{self._where}{path}.type", "must be a JSON type, or an array of them")
        for key in _STRINGS:
            if not isinstance(node.get(key, ""), str):
                raise bad(f"{self._where}{path}.{key}", "must be a string")
        for key in _NUMBERS:
            value = node.get(key, 0)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise bad(f"{self._where}{path}.{key}", "must be a number")
        for key in ("enum", "required"):
            if not isinstance(node.get(key, []), list):
                raise bad(f"{self._where}{path}.{key}", "must be an array")

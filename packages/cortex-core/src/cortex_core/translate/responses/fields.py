"""Values of a request, each of the type it must have: every refusal names its field, as `input.0.role`."""

from __future__ import annotations

from typing import Any

from cortex_core.dialects.body import bad


def an_object(field: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise bad(field, "must be an object")
    return value


def an_array(field: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise bad(field, "must be an array")
    return value


def a_name(field: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise bad(field, "must be a non-empty string")
    return value


def a_number(field: str, value: Any) -> int | float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise bad(field, "must be a number")
    return value


def a_count(field: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise bad(field, "must be an integer")
    return value


def a_flag(field: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise bad(field, "must be true or false")
    return value

"""A JSON body as its top-level values, strict about bytes and lenient about fields.

Invalid UTF-8 is refused (msgspec lets it through inside a value that it does not decode), and half a surrogate pair,
which some clients send and engines choke on, becomes U+FFFD (protocol H-07). Errors name the field as
`messages.0.content.1.text`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Raw

from cortex_core.errors import CortexError

T = TypeVar("T")

NOT_JSON = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""Everything that msgspec raises for bytes that are no JSON of the wanted shape (reliability 5.6)."""

encode = msgspec.json.Encoder().encode
loads = msgspec.json.Decoder().decode

_values = msgspec.json.Decoder(dict[str, Raw]).decode
_number = msgspec.json.Decoder(Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | float).decode
_INDEX = re.compile(r"\[(\d+|\.\.\.)\]")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
# Left to right over every escape, so that an escaped backslash before a `u` is not taken for the start of one.
_ESCAPES = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\."
)


def bad(field: str, problem: str) -> CortexError:
    return CortexError("bad_request", f"`{field}` {problem}", param=field)


def parse(body: bytes | Mapping[str, Raw]) -> dict[str, Raw]:
    """The values of a JSON object; a key given twice has its last value.

    Raises:
        CortexError: bad_request.
    """
    if not isinstance(body, bytes):
        return dict(body)
    if not body.strip():
        raise CortexError("bad_request", "the body is empty: expected a JSON object")
    try:
        if not body.isascii():
            body.decode()
        return _values(repair(body))
    except UnicodeDecodeError as error:
        raise CortexError("bad_request", f"the body is not UTF-8 (byte {error.start})") from None
    except msgspec.ValidationError:
        raise CortexError("bad_request", "the body must be a JSON object") from None
    except RecursionError:
        raise CortexError("bad_request", "the body is nested too deeply") from None
    except msgspec.MsgspecError as error:
        raise CortexError("bad_request", f"the body is not valid JSON: {error}") from None


def repair(body: bytes) -> bytes:
    """The same JSON with every lone surrogate escape as U+FFFD."""
    if b"\\u" not in body or _SURROGATE.search(body) is None:
        return body
    return _ESCAPES.sub(lambda match: rb"\ufffd" if match[1] else match[0], body)


def absent(raw: Raw | None) -> bool:
    """Whether a value is missing or null."""
    return raw is None or not memoryview(raw) or bytes(memoryview(raw)) == b"null"


def typed(raw: Raw | bytes, decode: Callable[[Any], T], field: str) -> T:
    """A value of a given shape.

    Raises:
        CortexError: bad_request, naming where in `field` the shape differs.
    """
    try:
        return decode(raw)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `$")
        where = _INDEX.sub(r".\1", path.rstrip("`")).replace("....", ".")
        raise bad(field + where, f"is not valid: {problem[:200]}") from None
    except RecursionError:
        raise bad(field, "is nested too deeply") from None
    except NOT_JSON as error:
        raise bad(field, f"is not valid JSON: {error}") from None


def field(values: Mapping[str, Raw], name: str, decode: Callable[[Any], T]) -> T | None:
    """A top-level value, or None where it is missing or null. Raises as `typed` does."""
    raw = values.get(name)
    return None if raw is None or absent(raw) else typed(raw, decode, name)


def is_beyond_all(raw: Raw) -> bool:
    """Whether a value is a number that neither 64 bits nor a double hold: no engine does anything good with one."""
    if starts(raw) not in b"-0123456789":
        return False
    try:
        _number(raw)
    except NOT_JSON:
        return True
    return False


def starts(raw: Raw) -> bytes:
    """The first byte of a value, which says what kind of JSON it is."""
    return bytes(memoryview(raw)[:1])

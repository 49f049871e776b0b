"""A request's body: checked, read as far as routing needs it, and put together again from its top-level values.

Put together again, so that what the engine reads is what was judged here: a key given twice vanishes, and every
value's bytes stay as they came. Strict before that: invalid UTF-8 is refused (msgspec lets it through inside a value
that it does not decode), and half a surrogate pair, which some clients send and engines choke on, becomes U+FFFD.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
from msgspec import Raw, Struct

from cortex_core.errors import CortexError, Dialect
from cortex_gateway.policy.usage import NOT_JSON

_NEEDED = {Dialect.OPENAI_CHAT: "messages", Dialect.OPENAI_COMPLETIONS: "prompt"}
_MAX_MODEL = 256  # characters; a longer name is no model of anybody's

_values = msgspec.json.Decoder(dict[str, Raw]).decode
_string = msgspec.json.Decoder(str).decode
_flag = msgspec.json.Decoder(bool | None).decode
_options = msgspec.json.Decoder(dict[str, Raw] | None).decode
_encode = msgspec.json.Encoder().encode

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
# Left to right over every escape, so that an escaped backslash before a `u` is not taken for the start of one.
_ESCAPES = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\."
)


class Wanted(Struct, frozen=True, gc=False):
    """What a request wants, and the bytes of all its values."""

    model: str
    stream: bool
    strip_usage: bool  # usage is asked for in the client's stead, and must not reach it
    values: dict[str, Raw]

    def encode(self) -> bytes:
        """The body for the engine."""
        return _encode(self.values)


def read(body: bytes, dialect: Dialect) -> Wanted:
    """A body of chat completions or completions.

    Raises:
        CortexError: bad_request, naming the field where there is one.
    """
    values = _parse(body)
    model = _model(values)
    needed = _NEEDED[dialect]
    if needed not in values:
        raise _bad(needed, "is required")
    if dialect is Dialect.OPENAI_CHAT and not bytes(values[needed]).startswith(b"["):
        raise _bad(needed, "must be an array of messages")
    stream = bool(_value(values, "stream", _flag, "must be true or false"))
    return Wanted(model, stream, stream and _ask_for_usage(values), values)


def _parse(body: bytes) -> dict[str, Raw]:
    if not body.strip():
        raise CortexError("bad_request", "the body is empty: expected a JSON object")
    try:
        if not body.isascii():
            body.decode()
        values = _values(repair(body))
    except UnicodeDecodeError as error:
        raise CortexError("bad_request", f"the body is not UTF-8 (byte {error.start})") from None
    except msgspec.ValidationError:
        raise CortexError("bad_request", "the body must be a JSON object") from None
    except RecursionError:
        raise CortexError("bad_request", "the body is nested too deeply") from None
    except msgspec.MsgspecError as error:
        raise CortexError("bad_request", f"the body is not valid JSON: {error}") from None
    return values


def repair(body: bytes) -> bytes:
    """The same JSON with every lone surrogate escape as U+FFFD."""
    if _SURROGATE.search(body) is None:
        return body
    return _ESCAPES.sub(lambda match: rb"\ufffd" if match[1] else match[0], body)


def _model(values: dict[str, Raw]) -> str:
    if "model" not in values:
        raise _bad("model", "is required")
    model: str = _value(values, "model", _string, "must be a string")
    if not 0 < len(model) <= _MAX_MODEL:
        raise _bad("model", f"must have 1 to {_MAX_MODEL} characters")
    return model


def _ask_for_usage(values: dict[str, Raw]) -> bool:
    """Makes the engine end its stream with exact usage. False: the client asked for that itself."""
    options = _value(values, "stream_options", _options, "must be an object") or {}
    if "include_usage" in options and _flag(options["include_usage"]):
        return False
    # Running totals in every chunk are the client's only together with include_usage.
    kept = {key: value for key, value in options.items() if key != "continuous_usage_stats"}
    values["stream_options"] = Raw(_encode({**kept, "include_usage": True}))
    return True


def _value(values: dict[str, Raw], key: str, decode: Any, problem: str) -> Any:
    raw = values.get(key)
    if raw is None:
        return None
    try:
        return decode(raw)
    except NOT_JSON:
        raise _bad(key, problem) from None


def _bad(field: str, problem: str) -> CortexError:
    return CortexError("bad_request", f"`{field}` {problem}", param=field)

"""A request's body: checked, read as far as routing needs it, and put together again from its top-level values.

Put together again, so that what the engine reads is what was judged here: a key given twice vanishes, and every
value's bytes stay as they came. Strict before that: invalid UTF-8 is refused (msgspec lets it through inside a value
that it does not decode), and half a surrogate pair, which some clients send and engines choke on, becomes U+FFFD.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

import msgspec
from msgspec import Raw, Struct

from cortex_core.errors import CortexError, Dialect
from cortex_gateway.policy.usage import NOT_JSON

_NEEDED = {Dialect.OPENAI_CHAT: "messages", Dialect.OPENAI_COMPLETIONS: "prompt"}
BYTES_A_TOKEN = 4  # of JSON; only for a guess
TOKENS = 512  # an answer's length where nothing is known of it, or the client only names a bound
HEAD_BYTES = 1024
MAX_SESSION = 256  # characters
_MAX_MODEL = 256  # characters; a longer name is no model of anybody's

_values = msgspec.json.Decoder(dict[str, Raw]).decode
_string = msgspec.json.Decoder(str).decode
_number = msgspec.json.Decoder(int | None).decode
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
    tokens: int  # that it will probably take, prompt and answer; a guess
    session: str  # what the client calls its conversation, if it does
    head: str  # a digest of the prompt's beginning
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
    if dialect is Dialect.OPENAI_CHAT and bytes(memoryview(values[needed])[:1]) != b"[":
        raise _bad(needed, "must be an array of messages")
    prompt = memoryview(values[needed])
    stream = bool(_value(values, "stream", _flag, "must be true or false"))
    return Wanted(
        model=model,
        stream=stream,
        strip_usage=stream and _ask_for_usage(values),
        tokens=len(prompt) // BYTES_A_TOKEN + _most_tokens(values),
        session=_session(values),
        head=hashlib.blake2b(prompt[:HEAD_BYTES], digest_size=8).hexdigest(),
        values=values,
    )


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


def _most_tokens(values: dict[str, Raw]) -> int:
    """What the answer may take by the client's own word. Nonsense is left to the engine to refuse."""
    for key in ("max_completion_tokens", "max_tokens"):
        if key in values:
            try:
                return max(0, min(_number(values[key]) or 0, TOKENS))
            except NOT_JSON:
                return TOKENS
    return TOKENS


def _session(values: dict[str, Raw]) -> str:
    """OpenAI's name for what shares a prefix."""
    try:
        return _string(values["prompt_cache_key"])[:MAX_SESSION] if "prompt_cache_key" in values else ""
    except NOT_JSON:
        return ""


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

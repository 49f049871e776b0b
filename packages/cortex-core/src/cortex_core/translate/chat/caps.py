"""What no request may ask of an engine (reliability F65), in OpenAI's dialects.

A field is refused when it lets a client run templates, load tensors or steer the engine's insides; a number is capped
where a larger one helps nobody and costs the engine memory for every token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from msgspec import Raw

from cortex_core.dialects.body import absent, bad, field, is_beyond_all, typed

REFUSED: Final = (
    "chat_template", "prompt_embeds", "mm_processor_kwargs", "media_io_kwargs", "kv_transfer_params",
    "ec_transfer_params", "vllm_xargs",
)  # fmt: skip
DROPPED: Final = ("request_id",)  # a request's id is ours: two of one name end each other
"""Fields that reach no engine: refused where the client counts on their effect, dropped where it cannot."""

MOST: Final[Mapping[str, int]] = {
    "n": 16,
    "best_of": 16,
    "top_logprobs": 20,
    "prompt_logprobs": 20,
    "min_tokens": 1 << 20,
}
MOST_ITEMS: Final[Mapping[str, int]] = {
    "stop": 64,
    "stop_token_ids": 1024,
    "bad_words": 1024,
    "allowed_token_ids": 1 << 18,
    "logprob_token_ids": 128,
    "logit_bias": 1024,
    "tools": 1024,
    "functions": 1024,
}
MOST_BYTES: Final[Mapping[str, int]] = {
    "chat_template_kwargs": 8 << 10,
    "structured_outputs": 256 << 10,
    "response_format": 256 << 10,
    "guided_regex": 8 << 10,
    "guided_grammar": 64 << 10,
    "guided_json": 256 << 10,
    "guided_choice": 64 << 10,
    "repetition_detection": 1 << 10,
}
MAX_STOP_CHARACTERS: Final = 1024
_FORBIDDEN_KWARGS = ("chat_template", "tokenize", "conversation", "tools")  # they would be template code, or our own

_number = msgspec.json.Decoder(int | float | None).decode
_items = msgspec.json.Decoder(list[Raw] | dict[str, Raw] | str | None).decode
_stop = msgspec.json.Decoder(str | list[str] | None).decode
_object = msgspec.json.Decoder(dict[str, Raw]).decode
_bias = msgspec.json.Decoder(dict[str, float]).decode


def check(values: dict[str, Raw]) -> None:
    """Raises CortexError, bad_request naming the field. Takes away what is only to be dropped."""
    for key in REFUSED:
        if not absent(values.get(key)):
            raise bad(key, "is not accepted here")
        values.pop(key, None)
    for key in DROPPED:
        values.pop(key, None)
    for key, raw in values.items():
        if is_beyond_all(raw):
            raise bad(key, "is a number that nobody can hold")
    for key in values.keys() & CHECKS.keys():
        if not absent(values[key]):
            CHECKS[key](key, values[key])


def _at_most(key: str, raw: Raw) -> None:
    number = typed(raw, _number, key)
    if number is not None and number > MOST[key]:
        raise bad(key, f"must be at most {MOST[key]}")


def _few(key: str, raw: Raw) -> None:
    items: Any = typed(raw, _items, key)
    if not isinstance(items, str) and items is not None and len(items) > MOST_ITEMS[key]:
        raise bad(key, f"must be at most {MOST_ITEMS[key]}")


def _short(key: str, raw: Raw) -> None:
    if len(memoryview(raw)) > MOST_BYTES[key]:
        raise bad(key, f"must be at most {MOST_BYTES[key]} bytes")


def _stops(key: str, raw: Raw) -> None:
    _few(key, raw)
    stops = typed(raw, _stop, key) or []
    if any(len(stop) > MAX_STOP_CHARACTERS for stop in ([stops] if isinstance(stops, str) else stops)):
        raise bad(key, f"must be strings of at most {MAX_STOP_CHARACTERS} characters")


def _logit_bias(key: str, raw: Raw) -> None:
    _few(key, raw)
    for token in typed(raw, _bias, key):
        if not token.isascii() or not token.isdigit() or len(token) > 10:
            raise bad(key, "must have token ids as its keys")


def _kwargs(key: str, raw: Raw) -> None:
    _short(key, raw)
    for name in typed(raw, _object, key):
        if name in _FORBIDDEN_KWARGS:
            raise bad(f"{key}.{name}", "is not accepted here")


CHECKS: Final[Mapping[str, Callable[[str, Raw], None]]] = {
    **dict.fromkeys(MOST, _at_most),
    **dict.fromkeys(MOST_ITEMS, _few),
    **dict.fromkeys(MOST_BYTES, _short),
    "stop": _stops,
    "logit_bias": _logit_bias,
    "chat_template_kwargs": _kwargs,
}


KEYS: Final = frozenset((*REFUSED, *DROPPED, *CHECKS))


def one(values: Mapping[str, Raw], key: str) -> int | float | None:
    """A number, or None."""
    return field(values, key, _number)

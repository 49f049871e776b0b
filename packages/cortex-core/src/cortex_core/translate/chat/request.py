"""A chat completions request, changed only where an engine would refuse it, not see it, or be harmed by it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec
from msgspec import Raw, Struct

from cortex_core.dialects.body import absent, bad, encode, field, parse, starts, typed
from cortex_core.fleet import ModelFacts
from cortex_core.translate.chat import caps, messages, tools

EFFORTS: Final = frozenset({"none", "minimal", "low", "medium", "high", "xhigh", "max"})

_string = msgspec.json.Decoder(str).decode
_flag = msgspec.json.Decoder(bool).decode
_stops = msgspec.json.Decoder(str | list[str]).decode


class ChatContext(Struct, frozen=True, kw_only=True):
    """What splicing the answer needs of the request."""

    model: str  # as requested: the answer says the same
    stream: bool = False
    tools: tools.Tools = tools.Tools()


class Normal(NamedTuple):
    values: dict[str, Raw]  # of the body for the engine
    context: ChatContext


def request(body: bytes | Mapping[str, Raw], facts: ModelFacts, *, model: str = "") -> Normal:
    """The request for the engine. Values that need no change keep their bytes.

    Args:
        body: the JSON, or its top-level values.
        model: what the engine calls the model; empty: as the client does.

    Raises:
        CortexError: bad_request, naming the field.
    """
    values = parse(body)
    asked = field(values, "model", _string)
    if not asked:
        raise bad("model", "is required")
    stream = field(values, "stream", _flag) or False
    caps.check(values)
    if absent(values.get("messages")):
        raise bad("messages", "is required")
    if model and model != asked:
        values["model"] = Raw(encode(model))
    known = tools.normalise(values)
    values["messages"] = messages.normalise(values["messages"], facts, asked)
    _lengths(values)
    if not stream:
        values.pop("stream_options", None)
    _stop(values)
    _effort(values)
    return Normal(values, ChatContext(model=asked, stream=stream, tools=known))


def _lengths(values: dict[str, Raw]) -> None:
    """0 or null means no bound of the client's."""
    for key in ("max_tokens", "max_completion_tokens"):
        if key in values and caps.one(values, key) in (None, 0):
            del values[key]


def _stop(values: dict[str, Raw]) -> None:
    """Engines refuse an empty stop string."""
    if absent(values.get("stop")):
        return
    stops = typed(values["stop"], _stops, "stop")
    listed = [stops] if isinstance(stops, str) else stops
    if "" in listed:
        values["stop"] = Raw(encode([stop for stop in listed if stop]))


def _effort(values: dict[str, Raw]) -> None:
    raw = values.get("reasoning_effort")
    if raw is None:
        return
    if absent(raw):
        del values["reasoning_effort"]
    elif starts(raw) != b'"' or typed(raw, _string, "reasoning_effort") not in EFFORTS:
        values["reasoning_effort"] = Raw(b'"high"')

"""A Messages request as a chat completions request (protocol A-01 to A-51).

Only what chat completions know is sent; everything else a client may say (betas, cache control, containers, servers)
is accepted and left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import Raw, Struct

from cortex_core.dialects.body import absent, bad, encode, field, parse, starts, typed
from cortex_core.errors import CortexError
from cortex_core.fleet import ModelFacts
from cortex_core.translate.messages import tools
from cortex_core.translate.messages.turns import conversation
from cortex_core.translate.schema import check

MAX_STOP = 64
EFFORTS = ("low", "medium", "high", "xhigh", "max")
_MILLION = "[1m]"  # Claude Code's mark for a long context

Thinking = Literal["shown", "omitted", "hidden"]


class Context(Struct, frozen=True, kw_only=True):
    """What the answer's translation needs of the request."""

    model: str  # as requested: the answer says the same
    stream: bool = False
    max_tokens: int = 0
    window: int = 0  # the model's context in tokens; 0: unknown
    thinking: Thinking = "shown"  # omitted: an empty block whose signature holds it
    prewarm: bool = False  # nothing but the prompt's cache is wanted: the answer has no content
    session: str = ""  # what the client calls its conversation


class Translated(NamedTuple):
    body: bytes  # of the chat completions request
    context: Context


class _Thinking(Struct):
    type: Any = None
    budget_tokens: Any = None
    display: Any = None


class _Format(Struct):
    type: Any = None
    schema: Raw = Raw()
    name: Any = None


class _OutputConfig(Struct):
    effort: Any = None
    format: Raw = Raw()


class _Metadata(Struct):
    user_id: Any = None


class _UserId(Struct):
    session_id: str = ""


_string = msgspec.json.Decoder(str).decode
_flag = msgspec.json.Decoder(bool).decode
_integer = msgspec.json.Decoder(int).decode
_number = msgspec.json.Decoder(float).decode
_strings = msgspec.json.Decoder(list[str]).decode
_thinking = msgspec.json.Decoder(_Thinking).decode
_format = msgspec.json.Decoder(_Format).decode
_output = msgspec.json.Decoder(_OutputConfig).decode
_metadata = msgspec.json.Decoder(_Metadata).decode
_user_id = msgspec.json.Decoder(_UserId).decode


def bare_model(name: str) -> str:
    """The model that a name means, without the mark for a long context (A-02)."""
    return name.removesuffix(_MILLION)


def request(
    body: bytes | Mapping[str, Raw], facts: ModelFacts, *, model: str = "", counting: bool = False
) -> Translated:
    """The chat request that a Messages request means.

    Args:
        body: the JSON, or its top-level values.
        model: what the engine calls the model; empty: as the client does.
        counting: only its tokens are wanted (T-01), so `max_tokens` may be missing.

    Raises:
        CortexError: bad_request, naming the field.
    """
    values = parse(body)
    asked = field(values, "model", _string)
    if not asked:
        raise bad("model", "is required")
    stream = field(values, "stream", _flag) or False
    max_tokens = _max_tokens(values, counting=counting)
    said = conversation(values.get("system"), values.get("messages"), facts, bare_model(asked))
    chat: dict[str, Any] = {"model": model or bare_model(asked), "messages": said.messages}
    if not counting:
        chat["max_tokens"] = max(1, max_tokens)
    if said.prefilled:
        chat["continue_final_message"] = True
        chat["add_generation_prompt"] = False
    _sample(chat, values)
    if functions := tools.functions(values.get("tools"), said.tool_changes):
        chat["tools"] = functions
        tools.choose(chat, values.get("tool_choice"))
    output = _lenient(values.get("output_config"), _output, _OutputConfig())
    _structure(chat, values.get("output_format") if absent(output.format) else output.format)
    thinking = _think(chat, _lenient(values.get("thinking"), _thinking, None), output.effort, facts, said.prefilled)
    session = _identify(chat, values.get("metadata"))
    if stream:
        chat["stream"] = True
        chat["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
    prewarm = max_tokens == 0 and not counting
    context = Context(
        model=asked, stream=stream, max_tokens=max_tokens, window=facts.context,
        thinking="hidden" if prewarm else thinking, prewarm=prewarm, session=session,
    )  # fmt: skip
    return Translated(encode(chat), context)


def _max_tokens(values: dict[str, Raw], *, counting: bool) -> int:
    count = field(values, "max_tokens", _integer)
    if count is None:
        if counting:
            return 0
        raise bad("max_tokens", "is required")
    if count < 0:
        raise bad("max_tokens", "must not be negative")
    return min(count, 1 << 31)


def _sample(chat: dict[str, Any], values: dict[str, Raw]) -> None:
    for key in ("temperature", "top_p"):
        value = field(values, key, _number)
        if value is not None:
            if not math.isfinite(value):
                raise bad(key, "must be a number")
            chat[key] = value
    top_k = field(values, "top_k", _integer)
    if top_k is not None and top_k >= 1:
        chat["top_k"] = top_k
    stops = list(dict.fromkeys(filter(None, field(values, "stop_sequences", _strings) or [])))
    if len(stops) > MAX_STOP:
        raise bad("stop_sequences", f"must be at most {MAX_STOP}")
    if stops:
        chat["stop"] = stops


def _structure(chat: dict[str, Any], raw: Raw | None) -> None:
    """Structured output (A-44). The engine takes no strict tools beside it."""
    wanted = _lenient(raw, _format, None)
    if wanted is None or wanted.type != "json_schema":
        return
    if absent(wanted.schema):
        raise bad("output_config.format.schema", "is required")
    check(wanted.schema, "output_config.format.schema")
    name = wanted.name if isinstance(wanted.name, str) and wanted.name else "answer"
    schema = {"name": name, "schema": wanted.schema, "strict": True}
    chat["response_format"] = {"type": "json_schema", "json_schema": schema}
    for tool in chat.get("tools", ()):
        tool["function"].pop("strict", None)


def _think(chat: dict[str, Any], asked: _Thinking | None, effort: Any, facts: ModelFacts, prefilled: bool) -> Thinking:
    """Says to the engine how much to think, and gives how it is shown (A-30 to A-34)."""
    kind = asked.type if asked is not None else None
    wanted = kind not in (None, "disabled") or (kind is None and effort is not None)
    if prefilled or not wanted:
        if facts.reasoning and facts.thinking_toggle:
            chat["reasoning_effort"] = facts.thinking_toggle
            if facts.thinking_toggle == "none":
                chat["chat_template_kwargs"] = {"enable_thinking": False}
        return "hidden"
    if facts.reasoning:
        chat["chat_template_kwargs"] = {"enable_thinking": True}
        budget = asked.budget_tokens if asked is not None else None
        if kind == "enabled" and isinstance(budget, int) and facts.thinking_budget:
            chat["thinking_token_budget"] = max(1, min(budget, chat.get("max_tokens", budget + 1) - 1))
        if effort is not None:
            chat["reasoning_effort"] = effort if effort in EFFORTS else "high"
    return "omitted" if asked is not None and asked.display == "omitted" else "shown"


def _identify(chat: dict[str, Any], raw: Raw | None) -> str:
    """`user`, and the session that a coding agent packs into it (A-47)."""
    metadata = _lenient(raw, _metadata, None)
    if metadata is None or not isinstance(metadata.user_id, str) or not metadata.user_id:
        return ""
    chat["user"] = metadata.user_id
    session: str = _lenient(Raw(metadata.user_id.encode(errors="replace")), _user_id, _UserId()).session_id[:256]
    if session:
        chat["session_id"] = session
    return session


def _lenient(raw: Raw | None, decode: Any, otherwise: Any) -> Any:
    """An object that clients fill with anything: of an unknown shape it says nothing, and is no error."""
    if raw is None or absent(raw) or starts(raw) != b"{":
        return otherwise
    try:
        return typed(raw, decode, "")
    except CortexError:
        return otherwise

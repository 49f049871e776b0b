"""A request of OpenAI Responses as one of chat completions (rules R-01 to R-06, R-10).

The gateway keeps no responses, so whatever refers to a stored one is refused, and `store` is accepted and never
honoured. What has no counterpart in chat is accepted and ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec import Raw, Struct

from cortex_core.dialects.body import NOT_JSON, absent, bad, encode, field, loads, parse, starts, typed
from cortex_core.errors import CortexError
from cortex_core.fleet import ModelFacts
from cortex_core.translate import history
from cortex_core.translate.responses import items, tools
from cortex_core.translate.responses.fields import a_count, a_flag, a_name, a_number
from cortex_core.translate.responses.tools import Tools
from cortex_core.translate.schema import check

T = TypeVar("T")

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
MAX_LOGPROBS = 20
MAX_SESSION = 256  # characters
ENCRYPTED = "reasoning.encrypted_content"
LOGPROBS = "message.output_text.logprobs"

_STORED = ("conversation", "prompt")  # which name what only a server with a memory has
_NUMBERS = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "repetition_penalty", "min_p")
_NUMBER = b"-0123456789"
# What a response repeats, and how such a value begins. Of another kind, it is not repeated.
_ECHOED = {
    "instructions": b'"[', "tools": b"[", "tool_choice": b'"{', "parallel_tool_calls": b"tf", "metadata": b"{",
    "reasoning": b"{", "text": b"{", "user": b'"', "prompt_cache_key": b'"', "safety_identifier": b'"',
    "temperature": _NUMBER, "top_p": _NUMBER, "max_output_tokens": _NUMBER, "max_tool_calls": _NUMBER,
    "top_logprobs": _NUMBER,
}  # fmt: skip


class _Text(Struct):
    format: Raw = Raw()


class _Format(Struct):
    type: Any = None
    name: Any = None
    description: Any = None
    schema: Raw = Raw()
    strict: Any = None


class _Reasoning(Struct):
    effort: Any = None


_text = msgspec.json.Decoder(_Text).decode
_format = msgspec.json.Decoder(_Format).decode
_reasoning = msgspec.json.Decoder(_Reasoning).decode


class Context(Struct, frozen=True, kw_only=True):
    """What the answer must know of its request."""

    model: str  # as it was asked for
    tools: Tools = Tools()
    echo: dict[str, Raw] = {}  # fields of the request that its response repeats
    stream: bool = False
    encrypted: bool = False  # reasoning also as an opaque string, for clients that echo nothing else
    logprobs: bool = False
    session: str = ""  # what the client calls its conversation


class Translated(NamedTuple):
    body: bytes  # of the chat completions request
    context: Context


def request(
    body: bytes | Mapping[str, Raw], facts: ModelFacts, *, model: str = "", counting: bool = False
) -> Translated:
    """The chat request that a Responses request means.

    Args:
        body: the JSON, or its top-level values.
        model: what the engine calls the model; empty: as the client does.
        counting: only its tokens are wanted (`/v1/responses/input_tokens`, R-10).

    Raises:
        CortexError: bad_request or previous_response_not_found, naming the field.
    """
    values = parse(body)
    _refuse(values)
    asked = a_name("model", field(values, "model", loads))
    include = field(values, "include", loads)
    include = [one for one in include if isinstance(one, str)] if isinstance(include, list) else []
    offered = tools.read(values.get("tools"))
    session = field(values, "prompt_cache_key", loads)
    context = Context(
        model=asked,
        tools=offered,
        echo=_echo(values),
        stream=a_flag("stream", field(values, "stream", loads) or False),
        encrypted=ENCRYPTED in include,
        logprobs=LOGPROBS in include,
        session=session[:MAX_SESSION] if isinstance(session, str) else "",
    )
    chat: dict[str, Any] = {"model": model or asked, "messages": _messages(values, asked, offered, facts)}
    _structure(chat, values)
    _offer(chat, values, offered)
    _think(chat, values, facts)
    if not counting:
        _sample(chat, values, logprobs=context.logprobs)
    if context.session and not counting:
        chat["session_id"] = context.session
    if context.stream and not counting:
        chat["stream"] = True
        chat["stream_options"] = {"include_usage": True}
    return Translated(encode(chat), context)


def count(tokens: int) -> bytes:
    """The answer of `/v1/responses/input_tokens`."""
    return encode({"object": "response.input_tokens", "input_tokens": tokens})


def _echo(values: dict[str, Raw]) -> dict[str, Raw]:
    """Each on one line, as an event needs it."""
    echo = {key: values[key] for key, first in _ECHOED.items() if key in values and starts(values[key]) in first}
    for key, raw in echo.items():
        data = bytes(memoryview(raw))
        if b"\n" in data or b"\r" in data:
            echo[key] = Raw(msgspec.json.format(data, indent=-1))
    return echo


def _refuse(values: dict[str, Raw]) -> None:
    """What needs a memory, or somebody who goes on working when nobody waits."""
    if not absent(values.get("previous_response_id")):
        problem = "responses are not stored: send the whole conversation in `input`"
        raise CortexError("previous_response_not_found", problem, param="previous_response_id")
    if not absent(values.get("background")) and a_flag("background", field(values, "background", loads)):
        raise bad("background", "is not supported: responses are not stored")
    for name in _STORED:
        if not absent(values.get(name)):
            raise bad(name, "is not supported: nothing is stored here")


def _messages(values: dict[str, Raw], model: str, offered: Tools, facts: ModelFacts) -> list[dict[str, Any]]:
    said = field(values, "input", loads)
    if said is None:
        raise bad("input", "is required")
    messages = items.read(said, "input", model=model, tools=offered, facts=facts)
    if not messages:
        raise bad("input", "holds nothing that a model could answer")
    instructions = field(values, "instructions", loads)
    if isinstance(instructions, str):
        messages.insert(0, {"role": "system", "content": instructions})
    elif instructions is not None:
        messages = items.read(instructions, "instructions", model=model, tools=offered, facts=facts) + messages
    return history.settle(messages, facts)


def _structure(chat: dict[str, Any], values: dict[str, Raw]) -> None:
    """`text.format`; all else in `text` is ignored."""
    format_ = _lenient(values.get("text"), _text, _Text()).format
    wanted = _Format() if absent(format_) else typed(format_, _format, "text.format")
    if wanted.type == "json_object":
        chat["response_format"] = {"type": "json_object"}
    elif wanted.type == "json_schema":
        if absent(wanted.schema):
            raise bad("text.format.schema", "is required")
        check(wanted.schema, "text.format.schema")
        name = wanted.name if isinstance(wanted.name, str) and wanted.name else "answer"
        schema = {"name": name, "schema": wanted.schema, "strict": wanted.strict is not False}
        if isinstance(wanted.description, str):
            schema["description"] = wanted.description
        chat["response_format"] = {"type": "json_schema", "json_schema": schema}


def _offer(chat: dict[str, Any], values: dict[str, Raw], offered: Tools) -> None:
    chosen, choice = tools.choose(field(values, "tool_choice", loads), offered)
    if not chosen.functions:
        return
    chat["tools"] = chosen.functions
    if choice is not None:
        chat["tool_choice"] = choice
    parallel = field(values, "parallel_tool_calls", loads)
    if parallel is not None:
        chat["parallel_tool_calls"] = a_flag("parallel_tool_calls", parallel)
    if "response_format" in chat:  # beside which an engine takes no strict tools
        chat["tools"] = [
            {**tool, "function": {key: value for key, value in tool["function"].items() if key != "strict"}}
            for tool in chosen.functions
        ]


def _think(chat: dict[str, Any], values: dict[str, Raw], facts: ModelFacts) -> None:
    """How much to think. Where nothing is said the model's own way is kept: clients expect reasoning items."""
    effort = _lenient(values.get("reasoning"), _reasoning, _Reasoning()).effort
    if effort is None or not facts.reasoning:
        return
    if effort == "none" and facts.thinking_toggle:
        effort = facts.thinking_toggle
    chat["reasoning_effort"] = effort if effort in EFFORTS else "high"


def _sample(chat: dict[str, Any], values: dict[str, Raw], *, logprobs: bool) -> None:
    for name in _NUMBERS:
        value = field(values, name, loads)
        if value is not None:
            chat[name] = a_number(name, value)
    for name in ("seed", "top_k", "max_output_tokens"):
        value = field(values, name, loads)
        if value is not None and abs(a_count(name, value)) < 1 << 63:
            chat[name] = value
    limit = chat.pop("max_output_tokens", 0)
    if limit < 0:
        raise bad("max_output_tokens", "must not be negative")
    if limit:
        chat["max_completion_tokens"] = min(limit, 1 << 31)
    user = field(values, "user", loads)
    if isinstance(user, str):
        chat["user"] = user
    top = field(values, "top_logprobs", loads) or 0
    if not 0 <= a_count("top_logprobs", top) <= MAX_LOGPROBS:
        raise bad("top_logprobs", f"must be 0 to {MAX_LOGPROBS}")
    if logprobs:
        chat["logprobs"], chat["top_logprobs"] = True, top


def _lenient(raw: Raw | None, decode: Callable[[Any], T], otherwise: T) -> T:
    """An object that clients fill with anything: of an unknown shape it says nothing, and is no error."""
    if raw is None or starts(raw) != b"{":
        return otherwise
    try:
        return decode(raw)
    except NOT_JSON:
        return otherwise

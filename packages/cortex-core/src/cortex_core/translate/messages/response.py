"""A whole chat completions answer as a message (protocol B-01 to B-08)."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw, Struct

from cortex_core.dialects.body import NOT_JSON, encode
from cortex_core.errors import CortexError
from cortex_core.translate import opaque, parts
from cortex_core.translate.calls import as_object
from cortex_core.translate.chat_events import GAVE_UP, Usage, read_usage
from cortex_core.translate.messages.ending import stop, stop_details, tokens
from cortex_core.translate.messages.request import Context


class _Function(Struct, gc=False):
    name: str | None = None
    arguments: Any = None


class _Call(Struct, gc=False):
    id: str | None = None
    function: _Function | None = None


class _Message(Struct, gc=False):
    content: Any = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_Call] | None = None
    refusal: str | None = None


class _Choice(Struct, gc=False):
    message: _Message | None = None
    index: int = 0
    finish_reason: str | None = None
    stop_reason: Any = None


class _Answer(Struct):
    choices: list[_Choice] = []
    usage: Raw = Raw()


_decode = msgspec.json.Decoder(_Answer).decode


def response(body: bytes, context: Context, message_id: str) -> bytes:
    """The message that a chat answer is. `message_id` is ours (`msg_...`).

    Raises:
        CortexError: upstream_failed; the engine's answer is none.
    """
    try:
        answer = _decode(body)
    except NOT_JSON:
        raise CortexError("upstream_failed", "the engine's answer could not be read") from None
    choice = next((one for one in answer.choices if one.index == 0), None)
    if choice is None or choice.finish_reason in GAVE_UP:
        raise CortexError("upstream_failed", "the engine gave up on the answer")
    usage = read_usage(answer.usage) or Usage()
    said = choice.message or _Message()
    finish = choice.finish_reason or "stop"
    calls, broken = _tool_uses(said.tool_calls or [], message_id, truncated=finish == "length")
    content = [] if context.prewarm else [*_words(said, context), *calls]
    if said.refusal and not said.content:
        finish = "content_filter"
    if not content and not context.prewarm:
        content.append({"type": "text", "text": ""})
    reason, sequence = stop(context, finish, choice.stop_reason, usage, calls=len(calls), broken=broken)
    return encode(
        {
            "id": message_id,
            "type": "message",
            "role": "assistant",
            "model": context.model,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": sequence,
            "stop_details": stop_details(reason),
            "usage": tokens(usage, prewarm=context.prewarm),
        }
    )


def _words(said: _Message, context: Context) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = []
    reasoning = said.reasoning or said.reasoning_content
    if reasoning and context.thinking == "shown":
        content.append({"type": "thinking", "thinking": reasoning, "signature": opaque.SHOWN})
    elif reasoning and context.thinking == "omitted":
        content.append({"type": "thinking", "thinking": "", "signature": opaque.seal(reasoning)})
    text = parts.joined(said.content, "") or said.refusal or ""
    if reasoning:
        text = text.lstrip("\n")  # what separated the thinking from the answer
    if text:
        content.append({"type": "text", "text": text})
    return content


def _tool_uses(calls: list[_Call], message_id: str, *, truncated: bool) -> tuple[list[dict[str, Any]], int]:
    """The complete calls, and how many are not. Of a truncated answer the last one is not, however it looks."""
    uses: list[dict[str, Any]] = []
    for number, call in enumerate(calls):
        function = call.function or _Function()
        arguments = function.arguments
        text = arguments if isinstance(arguments, str) else encode(arguments or {}).decode()
        whole = as_object(text)
        if whole is None or not function.name or (truncated and number == len(calls) - 1):
            continue
        known = {use["id"] for use in uses}
        uses.append(
            {
                "type": "tool_use",
                "id": call.id if call.id and call.id not in known else synthetic_id(message_id, number),
                "name": function.name,
                "input": Raw(whole.encode()),
            }
        )
    return uses, len(calls) - len(uses)


def synthetic_id(message_id: str, number: int) -> str:
    """A call's id where the engine gave none, or one that is taken: the same for the same answer."""
    return f"toolu_{message_id.removeprefix('msg_')}_{number}"

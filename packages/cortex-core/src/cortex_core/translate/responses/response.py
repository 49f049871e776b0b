"""A whole chat completions answer as a response (rules R-07, R-09).

It is a stream of one chunk whose last event is kept, so that both ways of answering say the same.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw, Struct

from cortex_core.dialects.body import NOT_JSON, encode
from cortex_core.errors import CortexError
from cortex_core.translate import parts
from cortex_core.translate.chat_events import (
    GAVE_UP,
    Choice,
    Chunk,
    Delta,
    FunctionDelta,
    Logprobs,
    ToolDelta,
    Usage,
    read_usage,
)
from cortex_core.translate.responses.request import Context
from cortex_core.translate.responses.stream import ResponsesStream


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
    logprobs: Logprobs | None = None
    index: int = 0
    finish_reason: str | None = None


class _Answer(Struct):
    choices: list[_Choice] = []
    usage: Raw = Raw()


_decode = msgspec.json.Decoder(_Answer).decode


def response(body: bytes, context: Context, response_id: str, created: int) -> bytes:
    """The response that a chat answer is. `response_id` is ours (`resp_...`), `created` in Unix seconds.

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
    stream = ResponsesStream(context, response_id, created)
    delta = _delta(choice.message or _Message())
    finish = choice.finish_reason or "stop"
    stream.feed(Chunk(choices=[Choice(delta=delta, logprobs=choice.logprobs, finish_reason=finish)]))
    stream.end(read_usage(answer.usage) or Usage())
    return encode(stream.response)


def _delta(said: _Message) -> Delta:
    calls = []
    for index, call in enumerate(said.tool_calls or ()):
        function = call.function or _Function()
        arguments = function.arguments
        text = arguments if isinstance(arguments, str) else encode(arguments or {}).decode()
        calls.append(ToolDelta(index=index, id=call.id, function=FunctionDelta(name=function.name, arguments=text)))
    return Delta(
        content=parts.joined(said.content, ""),
        reasoning=said.reasoning or said.reasoning_content,
        refusal=said.refusal,
        tool_calls=calls,
    )

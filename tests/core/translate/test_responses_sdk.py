"""rule R-07, R-08: the official SDK's own types and accumulator, strict where it is lenient by itself."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai import omit
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import Response, ResponseStreamEvent
from openai.types.responses.input_token_count_response import InputTokenCountResponse
from pydantic import TypeAdapter

from cortex_core.errors import CortexError
from cortex_core.translate.responses import count
from tests.support import chunks
from tests.support.chunks import call, end, text, thought
from tests.support.readers.framing import events
from tests.support.responses import streamed, translated, whole

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
TOOLS = [
    {"type": "function", "name": "f", "description": "d", "strict": False, "parameters": {"type": "object"}},
    {"type": "namespace", "name": "n", "description": "d", "tools": [{"type": "function", "name": "g"}]},
    {"type": "custom", "name": "c", "format": {"type": "text"}},
]
CONTEXT = translated(tools=TOOLS, include=["reasoning.encrypted_content"], reasoning={"effort": "low"})[1]
ANSWERS = {
    "text": [text("Hi "), text("you"), end()],
    "nothing": [end()],
    "truncated": [thought("hm"), text("Hi"), end("length")],
    "cut": [thought("hm"), text("Hi")],
    "calls": [
        thought("hm"), text("Hi"), call(0, "{}", id="c0", name="f"), call(1, '{"a":1}', id="c1", name="n__g"),
        call(2, '{"input":"x"}', id="c2", name="c"), end("tool_calls"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
def test_rule_R_08_every_event_is_one_of_the_sdks(name: str) -> None:
    state: Any = ResponseStreamState(input_tools=[], text_format=omit)
    for kind, data in events(streamed(ANSWERS[name], CONTEXT), named=True):
        parsed = EVENT.validate_python(data)
        assert parsed.type == kind
        state.handle_event(parsed)
        if "response" in data:
            Response.model_validate(data["response"])
    completed = state._completed_response
    assert (completed is not None) == (name not in {"truncated", "cut"})
    if name == "calls":
        assert [item.type for item in completed.output] == [
            "reasoning", "message", "function_call", "function_call", "custom_tool_call",
        ]  # fmt: skip
        assert completed.output_text == "Hi"
        assert completed.output[3].namespace == "n"


def test_rule_R_07_a_whole_response_is_the_sdks() -> None:
    calls = [chunks.function("c0", "n__g", "{}"), chunks.function("c1", "c", '{"input":"x"}')]
    made = whole({"reasoning": "hm", "content": "Hi", "tool_calls": calls}, "tool_calls", CONTEXT)
    parsed = Response.model_validate(made)
    assert parsed.output_text == "Hi"
    assert parsed.usage is not None
    assert parsed.usage.total_tokens == 15


def test_rule_R_10_the_count_is_the_sdks() -> None:
    assert InputTokenCountResponse.model_validate_json(count(7)).input_tokens == 7


def test_rule_E_10_a_failed_response_says_why() -> None:
    """The SDK itself only says that no response came, so the reason must stand in the event."""
    last = events(streamed([text("Hi")], CONTEXT), named=True)[-1][1]
    assert json.dumps(last).count("the engine is gone") == 1
    assert Response.model_validate(last["response"]).error is not None
    assert CortexError("upstream_failed", "x").rule.retryable

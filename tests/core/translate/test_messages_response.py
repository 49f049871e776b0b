"""Protocol 3.2: a chat answer as a message."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cortex_core.errors import CortexError
from cortex_core.translate.messages import Context, response
from cortex_core.translate.opaque import unseal
from tests.support.chunks import answer, counts, function


def message(said: dict[str, Any], finish: str | None = "stop", context: Context | None = None, **more: Any) -> Any:
    context = context or Context(model="claude-asked", max_tokens=100, window=1000)
    return json.loads(response(answer(said, finish, **more), context, "msg_1"))


def test_rule_B_01_every_key_is_there() -> None:
    assert message({"content": "Hi"}) == {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-asked",
        "content": [{"type": "text", "text": "Hi"}], "stop_reason": "end_turn", "stop_sequence": None,
        "stop_details": None,
        "usage": {
            "input_tokens": 10, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0}, "output_tokens": 5,
            "output_tokens_details": {"thinking_tokens": 0}, "service_tier": "standard",
        },
    }  # fmt: skip


def test_rule_B_02_thinking_text_tools_in_this_order() -> None:
    said = {"content": "a", "reasoning": "r", "tool_calls": [function("c", "f", "{}"), function("d", "g", '{"x":1}')]}
    assert [block["type"] for block in message(said)["content"]] == ["thinking", "text", "tool_use", "tool_use"]
    assert message({"content": None})["content"] == [{"type": "text", "text": ""}]


@pytest.mark.parametrize("key", ["reasoning", "reasoning_content"])
def test_rule_B_03_thinking_has_a_signature(key: str) -> None:
    first, again = (message({"content": "a", key: "r"})["content"][0] for _ in range(2))
    assert first == again
    assert first["thinking"] == "r"
    assert first["signature"]


def test_rule_B_03_omitted_thinking_lies_in_its_signature() -> None:
    block = message({"content": "a", "reasoning": "r"}, context=Context(model="m", thinking="omitted"))["content"][0]
    assert (block["thinking"], unseal(block["signature"])) == ("", "r")


@pytest.mark.parametrize(
    ("finish", "met", "calls", "usage", "reason", "sequence"),
    [
        ("stop", None, 0, counts(), "end_turn", None),
        ("stop", 151643, 0, counts(), "end_turn", None),
        ("stop", "END", 0, counts(), "stop_sequence", "END"),
        ("stop", None, 1, counts(), "tool_use", None),
        ("tool_calls", None, 1, counts(), "tool_use", None),
        ("tool_calls", None, 0, counts(), "end_turn", None),
        ("length", None, 0, counts(10, 100), "max_tokens", None),
        ("length", None, 0, counts(960, 40), "model_context_window_exceeded", None),
        ("length", None, 0, counts(900, 100), "max_tokens", None),
        ("length", None, 1, counts(), "max_tokens", None),
        ("content_filter", None, 0, counts(), "refusal", None),
        ("repetition", None, 0, counts(), "end_turn", None),
        (None, None, 0, counts(), "end_turn", None),
    ],
)
def test_rule_B_04_stop_reasons(finish: Any, met: Any, calls: int, usage: Any, reason: str, sequence: Any) -> None:
    said = {"content": "a", "tool_calls": [function(f"c{n}", "f", "{}") for n in range(calls)]}
    got = message(said, finish, stop_reason=met, usage=usage)
    assert (got["stop_reason"], got["stop_sequence"]) == (reason, sequence)
    assert (got["stop_details"] is not None) is (reason == "refusal")


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ("", {}),
        ("{}", {}),
        ({"a": 1}, {"a": 1}),
        ("[1]", {"value": [1]}),
        ('"x"', {"value": "x"}),
        ('{"a":1}', {"a": 1}),
    ],
)
def test_rule_B_05_arguments_are_an_object(arguments: Any, value: Any) -> None:
    got = message({"tool_calls": [function("c", "f", arguments)]}, "tool_calls")
    assert got["content"] == [{"type": "tool_use", "id": "c", "name": "f", "input": value}]


@pytest.mark.parametrize("finish", ["stop", "tool_calls", "length"])
def test_rule_B_05_a_truncated_call_is_dropped(finish: str) -> None:
    said = {"tool_calls": [function("c", "f", '{"a":1}'), function("d", "rm", '{"cmd":"rm","args":["-rf","/ho')]}
    got = message(said, finish)
    assert [block["id"] for block in got["content"]] == ["c"]
    assert got["stop_reason"] == "max_tokens"


def test_rule_B_05_at_the_length_the_last_call_is_not_trusted() -> None:
    got = message({"tool_calls": [function("c", "f", '{"a":1}')]}, "length")
    assert got["content"] == [{"type": "text", "text": ""}]
    assert got["stop_reason"] == "max_tokens"


def test_rule_B_06_usage_sums_to_the_prompt() -> None:
    got = message({"content": "a"}, usage=counts(100, 7, cached=60, created=30, reasoning=4))["usage"]
    assert (got["input_tokens"], got["cache_read_input_tokens"], got["cache_creation_input_tokens"]) == (10, 60, 30)
    assert got["cache_creation"] == {"ephemeral_5m_input_tokens": 30, "ephemeral_1h_input_tokens": 0}
    assert got["output_tokens_details"] == {"thinking_tokens": 4}
    odd = message({"content": "a"}, usage=counts(10, 7, cached=60, created=30))["usage"]
    assert odd["input_tokens"] + odd["cache_read_input_tokens"] + odd["cache_creation_input_tokens"] == 10


def test_rule_B_07_no_empty_text_beside_calls_and_no_blank_lines_after_thinking() -> None:
    got = message({"content": "", "tool_calls": [function("c", "f", "{}")]})
    assert [block["type"] for block in got["content"]] == ["tool_use"]
    assert message({"content": "\n\nHi", "reasoning": "r"})["content"][1]["text"] == "Hi"
    assert message({"content": "\n\nHi"})["content"][0]["text"] == "\n\nHi"


def test_rule_B_08_a_refusal() -> None:
    got = message({"refusal": "I must not."})
    assert got["content"] == [{"type": "text", "text": "I must not."}]
    assert got["stop_reason"] == "refusal"


def test_rule_A_48_a_prewarm_has_no_content() -> None:
    got = message({"content": "a"}, "length", context=Context(model="m", prewarm=True))
    assert (got["content"], got["stop_reason"], got["usage"]["output_tokens"]) == ([], "max_tokens", 0)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"choices":[]}', b'{"choices":[{"finish_reason":"abort"}]}', b"\xff"])
def test_rule_E_11_what_is_no_answer_is_an_error(body: bytes) -> None:
    with pytest.raises(CortexError) as caught:
        response(body, Context(model="m"), "msg_1")
    assert caught.value.kind == "upstream_failed"

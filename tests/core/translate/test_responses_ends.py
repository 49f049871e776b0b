"""rule R-09, C-11, E-05, E-06, E-10, E-11: how a response ends that is not complete."""

from __future__ import annotations

import pytest

from cortex_core.errors import KINDS, CortexError
from cortex_core.translate.responses import ResponsesStream, response
from tests.support.chunks import call, chunk, end, event, function, text, thought
from tests.support.readers.responses import Read, read, text_of
from tests.support.responses import CREATED, said, translated, whole


def new() -> ResponsesStream:
    return ResponsesStream(translated()[1], "resp_1", CREATED)


def outcome(read: Read) -> tuple[str, str | None, list[str]]:
    """Status, why incomplete, and the types of the items that were done."""
    details = read.final["incomplete_details"]
    return read.final["status"], details and details["reason"], [item["type"] for item in read.items]


@pytest.mark.parametrize(("finish", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter")])
def test_rule_R_09_truncated_text_is_incomplete(finish: str, reason: str) -> None:
    got = said(thought("hm"), text("Hi"), end(finish))
    assert outcome(got) == ("incomplete", reason, ["reasoning", "message"])
    assert [item["status"] for item in got.items] == ["completed", "incomplete"]
    assert got.kinds[-1] == "incomplete"
    assert got.final["output"] == whole({"reasoning": "hm", "content": "Hi"}, finish)["output"]


@pytest.mark.parametrize("finish", ["length", "tool_calls", "stop"])
@pytest.mark.parametrize("arguments", ['{"cmd":"rm","args":["-rf","/home/me","/ho', '{"a":', '"x', "{]"])
def test_rule_C_11_a_truncated_call_is_never_run(finish: str, arguments: str) -> None:
    """fixtures 5 and 16: nor a complete one that the limit cut (a parser may have closed it)."""
    first = function("c0", "f", "{}")
    got = said(call(0, "{}", id="c0", name="f"), call(1, arguments, id="c1", name="rm"), end(finish))
    assert outcome(got) == ("incomplete", "max_output_tokens", ["function_call"])
    assert [one["call_id"] for one in got.ran] == ["c0"]
    answer = whole({"tool_calls": [first, function("c1", "rm", arguments)]}, finish)
    assert answer["output"] == got.final["output"]
    assert answer["status"] == "incomplete"


def test_rule_C_11_a_call_that_the_limit_ended_is_never_run() -> None:
    """fixture 16: however complete it looks: a parser may have closed it."""
    assert said(call(0, '{"a":1}', id="c0", name="f"), end("length")).ran == []
    assert (
        said(call(0, '{"a":1}', id="c0", name="f"), call(1, "", id="c1", name="g"), end("length")).ran[0]["name"] == "f"
    )


def test_rule_C_11_nor_a_truncated_custom_call() -> None:
    _, context = translated(tools=[{"type": "custom", "name": "patch"}])
    got = said(call(0, '{"input":"*** Begin', id="c", name="patch"), end("length"), context=context)
    assert got.ran == got.final["output"] == []


@pytest.mark.parametrize("finish", ["stop", "tool_calls", "function_call", "repetition"])
def test_rule_C_11_a_whole_call_is_run_whatever_the_finish_says(finish: str) -> None:
    assert len(said(call(0, "{}", id="c", name="f"), end(finish)).ran) == 1


@pytest.mark.parametrize("broken", [b"", event({"error": {"message": "boom", "code": 500}}), chunk({}, "abort")])
def test_rule_E_10_an_answer_that_breaks_has_failed(broken: bytes) -> None:
    """fixtures 10, 11, 12 and 18: the text so far is kept, a call that was begun is not."""
    got = said(thought("hm"), text("Hi"), broken)
    assert got.final["status"] == "failed"
    assert got.final["error"] == {"code": "server_error", "message": "the engine is gone"}
    assert [item["status"] for item in got.final["output"]] == ["completed", "incomplete"]
    assert text_of(got.final["output"]) == "Hi"
    assert said(call(0, '{"a":1}', id="c", name="f"), broken).final["output"] == []


def test_rule_E_10_an_error_behind_the_finish_fails_too() -> None:
    """fixture 10."""
    assert said(text("Hi"), chunk({}, "stop"), event({"error": {"message": "x"}})).final["status"] == "failed"


def test_rule_E_10_an_error_before_everything() -> None:
    """fixture 10: when the head is out because of a long wait."""
    stream = new()
    assert read(stream.error(CortexError("loading", "m loads"))).kinds == ["created", "in_progress", "failed"]


@pytest.mark.parametrize("kind", KINDS)
def test_rule_E_06_codes_that_codex_repeats(kind: str) -> None:
    """`server_is_overloaded` would end its turn; a rate limit says when to come again."""
    final = read(new().error(CortexError(kind, "no", retry_after_s=7))).final
    code, message = final["error"]["code"], final["error"]["message"]
    if KINDS[kind].retryable or kind in {"timeout", "internal"}:
        assert code in {"server_error", "rate_limit_exceeded"}
        assert (code == "rate_limit_exceeded") == ("try again in 7s" in message)
    else:
        assert code == ("context_length_exceeded" if kind == "context_exceeded" else "invalid_prompt")


def test_rule_E_05_overflow_inside_a_stream() -> None:
    final = read(new().error(CortexError("context_exceeded", "9 tokens > 8"))).final
    assert final["error"] == {"code": "context_length_exceeded", "message": "9 tokens > 8"}


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"choices":[]}', b'{"choices":[{"finish_reason":"abort"}]}'])
def test_rule_E_11_no_answer_is_no_response(body: bytes) -> None:
    with pytest.raises(CortexError) as caught:
        response(body, translated()[1], "resp_1", CREATED)
    assert caught.value.kind == "upstream_failed"

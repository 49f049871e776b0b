"""Protocol 8: the tricky inputs that concern Messages and chat, each one a test."""

from __future__ import annotations

import base64
import itertools
import json
from typing import Any

import pytest

from cortex_core.fleet import ModelFacts
from cortex_core.translate.chat import ChatContext, ChatStream
from cortex_core.translate.chat_events import Translation
from cortex_core.translate.messages import Context, MessagesStream, request, response
from tests.support.chunks import DONE, answer, call, chunk, counts, end, event, function, role, text, thought, usage
from tests.support.readers.chat import read as read_chat
from tests.support.readers.messages import Read, read

CONTEXT = Context(model="claude-asked", stream=True, max_tokens=100, window=1000)
PLAIN = ModelFacts()
USE = {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}}
PDF = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}}


def streamed(*pieces: bytes) -> Read:
    translation = Translation(MessagesStream(CONTEXT, "msg_1"))
    out = b"".join([*map(translation.feed, pieces), translation.end()])
    assert translation.done, translation.error
    return read(out)


def failed(*pieces: bytes) -> Translation:
    translation = Translation(MessagesStream(CONTEXT, "msg_1"))
    out = b"".join([*map(translation.feed, pieces), translation.end()])
    assert not translation.done
    assert b"message_stop" not in out
    read(out, ended=False)
    return translation


def asked(facts: ModelFacts = PLAIN, **fields: Any) -> dict[str, Any]:
    body = {"model": "claude-x", "max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}], **fields}
    return dict(json.loads(request(json.dumps(body).encode(), facts).body))


def said(*messages: tuple[str, Any], facts: ModelFacts = PLAIN) -> list[dict[str, Any]]:
    return list(asked(facts, messages=[{"role": r, "content": c} for r, c in messages])["messages"])


def result(identity: str, content: Any = "ok", **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": identity, "content": content, **more}


def test_fixture_01_interleaved_tool_deltas() -> None:
    pieces = [call(0, "", id="a", name="f"), call(1, "", id="b", name="g")]
    for first, second in zip('{"x": "1"}', '{"y": "2"}', strict=True):
        pieces += [call(0, first), call(1, second)]
    assert streamed(role(), *pieces, end("tool_calls")).tools == [("a", "f", {"x": "1"}), ("b", "g", {"y": "2"})]


def test_fixture_02_arguments_split_inside_an_escape_and_inside_utf8() -> None:
    whole = role() + call(0, '{"e":"\\ud83d', id="a", name="f") + call(0, '\\ude00😀"}') + end("tool_calls")
    assert streamed(*(bytes([byte]) for byte in whole)).tools == [("a", "f", {"e": "😀😀"})]


def test_fixture_03_name_split() -> None:
    pieces = [call(0, "", id="a", name="get"), call(0, "", name="_it"), call(0, "{}")]
    assert streamed(role(), *pieces, end("tool_calls")).tools == [("a", "get_it", {})]


def test_fixture_04_id_missing_or_repeated() -> None:
    got = streamed(role(), call(0, "{}", name="f"), call(1, "{", id="b", name="g"), call(1, "}", id="b"),
                   end("tool_calls")).tools  # fmt: skip
    assert [(name, value) for _, name, value in got] == [("f", {}), ("g", {})]
    assert got[0][0]


@pytest.mark.parametrize(
    ("arguments", "value"), [("", {}), ("{}", {}), ("[1]", {"value": [1]}), ('{"cmd":"rm","args":["-rf","/ho', None)]
)
def test_fixture_05_odd_arguments(arguments: str, value: Any) -> None:
    got = streamed(role(), call(0, arguments, id="a", name="f"), end("tool_calls"))
    whole = json.loads(
        response(answer({"tool_calls": [function("a", "f", arguments)]}, "tool_calls"), CONTEXT, "msg_1")
    )
    if value is None:
        assert got.stop_reason == whole["stop_reason"] == "max_tokens"
        assert whole["content"] == [{"type": "text", "text": ""}]
    else:
        assert got.tools == [("a", "f", value)]
        assert whole["content"][0]["input"] == value


def test_fixture_06_content_in_the_role_chunk() -> None:
    assert streamed(chunk({"role": "assistant", "content": "Hi"}), end()).text() == "Hi"


def test_fixture_07_reasoning_text_reasoning_tool() -> None:
    got = streamed(role(), thought("a"), text("b"), thought("c"), call(0, "{}", id="t", name="f"), end("tool_calls"))
    assert (got.kinds, got.stop_reason) == (["thinking", "text", "thinking", "tool_use"], "tool_use")


def test_fixture_08_everything_in_one_chunk() -> None:
    calls = [{"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}}]
    got = streamed(chunk({"role": "assistant", "content": "x", "tool_calls": calls}, "tool_calls"), usage(), DONE)
    assert (got.kinds, got.stop_reason) == (["text", "tool_use"], "tool_use")


@pytest.mark.parametrize(
    "tail",
    [[chunk(finish="stop", usage=counts(9, 3)), DONE], [chunk(finish="stop"), usage(9, 3), usage(9, 3), DONE]],
    ids=["on the finish", "twice"],
)
def test_fixture_09_usage_wherever(tail: list[bytes]) -> None:
    assert streamed(role(), text("a"), *tail).usage["input_tokens"] == 9


def test_fixture_09_usage_missing() -> None:
    assert streamed(role(), text("a"), chunk(finish="stop"), DONE).usage["output_tokens"] > 0


@pytest.mark.parametrize("before", [[], [role(), text("a")], [role(), text("a"), chunk(finish="stop")]])
def test_fixture_10_an_error_first_in_the_middle_after_the_finish(before: list[bytes]) -> None:
    failed(*before, event({"error": {"message": "boom", "type": "x", "code": 500}}), DONE)


def test_fixture_11_eof_without_done() -> None:
    assert streamed(role(), text("a"), chunk(finish="stop"), usage()).text() == "a"
    failed(role(), text("a"))


def test_fixture_13_framing() -> None:
    whole = b"\xef\xbb\xbf: hello\n\n" + role() + b": keep-alive\n\n" + text("a") + text("b") + end()
    split = whole.replace(b'"choices":', b'\ndata: "choices":').replace(b"\n", b"\r\n")
    for stream in (whole, whole.replace(b"\n", b"\r\n"), whole.replace(b"data: ", b"data:"), split, whole[:-2]):
        assert streamed(*(bytes([byte]) for byte in stream)).text() == "ab"
        assert streamed(stream).text() == "ab"


def test_fixture_14_an_empty_completion() -> None:
    assert streamed(role(), end()).content == [{"type": "text", "text": ""}]


def test_fixture_15_a_stop_sequence_at_the_end_and_inside_arguments() -> None:
    got = streamed(role(), text("a"), chunk(finish="stop", stop_reason="END"), usage(), DONE)
    assert (got.stop_reason, got.stop_sequence) == ("stop_sequence", "END")
    inside = [call(0, '{"a":"b', id="a", name="f"), chunk(finish="stop", stop_reason="END")]
    assert streamed(role(), *inside, usage(), DONE).stop_reason == "stop_sequence"


def test_fixture_16_the_length_inside_arguments() -> None:
    got = streamed(role(), call(0, '{"a":"b', id="a", name="f"), end("length"))
    assert got.stop_reason == "max_tokens"
    never_shown = streamed(role(), text("x"), call(0, "", id="a", name="f"), end("length"))
    assert never_shown.tools == []


def test_fixture_17_two_choices() -> None:
    second = event({"choices": [{"index": 1, "delta": {"content": "no"}, "finish_reason": "stop"}]})
    assert streamed(role(), second, text("a"), end()).text() == "a"


def test_fixture_18_abort() -> None:
    assert failed(role(), text("a"), chunk(finish="abort"), usage(), DONE).error is not None


def test_fixture_19_20_results_with_text_around_and_an_image_in_the_second() -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}
    uses = [{**USE, "id": name} for name in "abc"]
    turn = [{"type": "text", "text": "1"}, result("a"), {"type": "text", "text": "2"}, result("b", [image]),
            result("c"), {"type": "text", "text": "3"}]  # fmt: skip
    made = said(("user", "q"), ("assistant", uses), ("user", turn))
    assert [m["role"] for m in made] == ["user", "assistant", "tool", "tool", "tool", "user"]
    kinds = [part["type"] for part in made[-1]["content"]]
    assert kinds == ["text", "image_url", "text", "text", "text"]


def test_fixture_21_22_results_that_failed_or_say_nothing() -> None:
    nested = [{"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "deep"}]}}]
    for content, flag, expected in [("no", True, "Error: no"), (None, False, ""), ([], False, ""), ("", False, ""),
                                    (nested, False, "[document]\ndeep")]:  # fmt: skip
        made = said(("user", "q"), ("assistant", [USE]), ("user", [result("t1", content, is_error=flag)]))
        assert made[2]["content"] == expected


def test_fixture_23_a_prefill() -> None:
    made = asked(messages=[{"role": "user", "content": "q"}, {"role": "assistant", "content": '{"a":'}])
    assert made["continue_final_message"] is True


def test_fixture_24_runs_of_one_role() -> None:
    made = said(("user", "a"), ("user", "b"), ("assistant", "c"), ("assistant", [USE]), ("user", [result("t1")]),
                ("user", "d"))  # fmt: skip
    assert [m["role"] for m in made] == ["user", "assistant", "tool", "user"]


def test_fixture_25_inline_system_at_every_position() -> None:
    turns = [("user", "a"), ("assistant", [USE]), ("user", [result("t1")]), ("assistant", "b"), ("user", "c")]
    for at, first in itertools.product(range(len(turns) + 1), (True, False)):
        made = said(*turns[:at], ("system", "S"), *turns[at:], facts=ModelFacts(system_first=first))
        roles = [m["role"] for m in made]
        assert roles.index("tool") == roles.index("assistant") + 1
        assert "system" not in roles[1:] or not first
        assert sum("S" in json.dumps(m["content"]) for m in made) == 1


def test_fixture_26_the_billing_header() -> None:
    header = {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.197.a1b; cc_entrypoint=cli;"}
    assert asked(system=[header, {"type": "text", "text": "S"}])["messages"][0]["content"] == "S"


def test_fixture_27_a_pdf_beside_a_result() -> None:
    made = said(("user", "q"), ("assistant", [USE]), ("user", [result("t1"), PDF]))
    assert "PDF document omitted" in made[-1]["content"]


def test_fixture_28_web_search_alone_and_mixed() -> None:
    search = {"type": "web_search_20250305", "name": "web_search", "max_uses": 8}
    assert "tools" not in asked(tools=[search], tool_choice={"type": "tool", "name": "web_search"})
    assert len(asked(tools=[search, {"name": "f", "input_schema": {}}])["tools"]) == 1


def test_fixture_29_unknown_everything() -> None:
    made = asked(
        messages=[{"role": "user", "content": [{"type": "new", "x": [1]}, {"type": "text", "text": "a"}], "new": 1}],
        tools=[{"type": "new_20300101", "name": "n"}], thinking={"type": "between_tools"}, future={"a": 1},
        output_config={"effort": "ultra", "format": {"type": "new"}}, tool_choice={"type": "new"},
    )  # fmt: skip
    assert made["messages"] == [{"role": "user", "content": "a"}]


def test_fixture_30_odd_characters() -> None:
    raw = b'{"model":"m","max_tokens":9,"messages":[{"role":"user","content":'
    raw += b'"\\ud83d|\\u0000|\xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x91\xa7|\xd7\xa9"}]}'
    made = json.loads(request(raw, PLAIN).body)
    assert made["messages"][0]["content"] == "\ufffd|\0|👩‍👧|ש"
    assert streamed(role(), text("👩‍👧\0ש"), end()).text() == "👩‍👧\0ש"


def test_fixture_31_an_image_of_eight_megabytes() -> None:
    data = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(6 << 20)).decode()
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": data}}
    url = said(("user", [image]))[0]["content"][0]["image_url"]["url"]
    assert url == f"data:image/png;base64,{data}"


def test_fixture_32_a_hundred_tools() -> None:
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "propertyNames": {"pattern": "^a"},
    }
    tools = [{"name": f"t{n}", "input_schema": schema} for n in range(100)]
    assert [t["function"]["parameters"] for t in asked(tools=tools)["tools"]] == [schema] * 100


def test_fixture_33_an_orphan_and_a_missing_result() -> None:
    made = said(("user", "q"), ("assistant", [USE]), ("user", [result("gone", "x")]))
    assert [(m["role"], m["content"]) for m in made[2:]] == [
        ("tool", "(tool call was not executed)"), ("user", "[tool result gone] x"),
    ]  # fmt: skip


def test_fixture_34_max_tokens_0() -> None:
    assert asked(max_tokens=0)["max_tokens"] == 1


def test_fixture_35_sixty_four_stops() -> None:
    assert len(asked(stop_sequences=[f"s{n}" for n in range(64)])["stop"]) == 64


def test_fixture_36_a_budget_beyond_max_tokens() -> None:
    facts = ModelFacts(reasoning=True, thinking_budget=True)
    assert asked(facts, thinking={"type": "enabled", "budget_tokens": 9999})["thinking_token_budget"] == 99


def test_fixture_37_a_reasoning_model_without_thinking() -> None:
    facts = ModelFacts(reasoning=True, thinking_toggle="none")
    made = request(
        json.dumps({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "a"}]}).encode(), facts
    )
    got = json.loads(response(answer({"content": "a", "reasoning": "r"}), made.context, "msg_1"))
    assert [block["type"] for block in got["content"]] == ["text"]
    assert json.loads(made.body)["chat_template_kwargs"] == {"enable_thinking": False}


def test_fixture_39_a_request_as_claude_code_sends_it() -> None:
    """The shape of its first turn, as captured: three system blocks, a system message behind the user's, metadata."""
    cached = {"cache_control": {"type": "ephemeral"}}
    made = asked(
        ModelFacts(reasoning=True, thinking_toggle="none", thinking_budget=True),
        model="claude-sonnet-4-5", max_tokens=32000, stream=True, temperature=1,
        system=[
            {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.197.d49"},
            {"type": "text", "text": "You are Claude Code.", **cached}, {"type": "text", "text": "Prompt", **cached},
        ],
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "<system-reminder>x</system-reminder>"},
                                         {"type": "text", "text": "do it", **cached}]},
            {"role": "system", "content": "more"},
        ],
        tools=[{"name": "Bash", "description": "d", "input_schema": {"$schema": "s", "type": "object"}}],
        metadata={"user_id": json.dumps({"device_id": "d", "account_uuid": "", "session_id": "s"})},
        thinking={"type": "enabled", "budget_tokens": 31999}, output_config={"effort": "high"},
        context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    )  # fmt: skip
    assert [m["role"] for m in made["messages"]] == ["system", "user"]
    assert made["messages"][0]["content"] == "You are Claude Code.\n\nPrompt"
    assert len(made["messages"][1]["content"]) == 3
    assert (made["thinking_token_budget"], made["reasoning_effort"], made["session_id"]) == (31999, "high", "s")


def test_fixture_45_a_model_id_with_a_slash() -> None:
    context = ChatContext(model="Qwen/Qwen3-8B")
    got = read_chat(ChatStream(context, "tiny").feed(role() + text("a") + end()))
    assert got.models == {"Qwen/Qwen3-8B"}


def image(data: str = "iVBORw0KGgo=") -> dict[str, Any]:
    return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}


def test_fixture_20_an_image_in_the_second_of_three_results() -> None:
    uses = [{**USE, "id": name} for name in ("a", "b", "c")]
    results = [result("a", "one"), result("b", [{"type": "text", "text": "two"}, image()]), result("c", "three")]
    _, _, first, second, third, shown = said(("user", "Hi"), ("assistant", uses), ("user", results))
    assert [(m["role"], m["tool_call_id"], m["content"]) for m in (first, second, third)] == [
        ("tool", "a", "one"), ("tool", "b", "two"), ("tool", "c", "three"),
    ]  # fmt: skip
    assert shown["role"] == "user"
    assert [part["type"] for part in shown["content"]] == ["text", "image_url"]
    assert "b" in shown["content"][0]["text"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, ""),
        ([], ""),
        ("", ""),
        ([{"type": "document", "title": "T", "source": {"type": "text", "data": "inner"}}], "[document: T]\ninner"),
        ([{"type": "document", "source": {"type": "content", "content": "deep"}}], "[document]\ndeep"),
    ],
)
def test_fixture_22_a_result_without_content_or_with_a_document(content: Any, told: str) -> None:
    message = said(("user", "Hi"), ("assistant", [USE]), ("user", [result("t1", content)]))[-1]
    assert (message["role"], message["content"]) == ("tool", told)

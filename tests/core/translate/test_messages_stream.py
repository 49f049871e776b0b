"""Protocol 3.3: the Messages stream, read as the strictest clients read it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cortex_core.errors import CortexError
from cortex_core.translate.chat_events import Translation
from cortex_core.translate.messages import PING, Context, MessagesStream
from cortex_core.translate.opaque import unseal
from tests.support.chunks import DONE, call, chunk, counts, end, event, role, text, thought, usage
from tests.support.readers.framing import events
from tests.support.readers.messages import Read, read

SHOWN = Context(model="claude-asked", stream=True, max_tokens=100, window=1000)


def streamed(*pieces: bytes, context: Context = SHOWN) -> bytes:
    translation = Translation(MessagesStream(context, "msg_1"))
    out = b"".join([*map(translation.feed, pieces), translation.end()])
    assert translation.done
    return out


def said(*pieces: bytes, **context: Any) -> Read:
    return read(streamed(role(), *pieces, context=Context(**{**as_dict(SHOWN), **context})))


def as_dict(context: Context) -> dict[str, Any]:
    return {name: getattr(context, name) for name in Context.__struct_fields__}


def test_rule_S_01_one_block_at_a_time_in_order() -> None:
    stream = streamed(role(), thought("Hm"), text("Hi"), call(0, '{"a":1}', id="c1", name="f"), end("tool_calls"))
    names = [name for name, _ in events(stream, named=True)]
    assert names == [
        "message_start",
        *("content_block_start", "content_block_delta", "content_block_delta", "content_block_stop"),
        *("content_block_start", "content_block_delta", "content_block_stop"),
        *("content_block_start", "content_block_delta", "content_block_stop"),
        *("message_delta", "message_stop"),
    ]
    assert read(stream).kinds == ["thinking", "text", "tool_use"]


def test_rule_S_02_message_start_is_complete_and_counts_the_prompt() -> None:
    start = read(streamed(role(usage=counts(40, 0, cached=30)), text("Hi"), end())).start
    assert (start["id"], start["model"]) == ("msg_1", "claude-asked")
    assert (start["usage"]["input_tokens"], start["usage"]["cache_read_input_tokens"]) == (10, 30)


def test_rule_S_03_the_first_chunk_may_bring_content() -> None:
    assert read(streamed(chunk({"role": "assistant", "content": "Hi"}), end())).text() == "Hi"


def test_rule_S_04_a_start_says_nothing() -> None:
    starts = [d["content_block"] for n, d in events(
        streamed(role(), thought("a"), text("b"), call(0, "{}", id="c", name="f"), end("tool_calls")), named=True
    ) if n == "content_block_start"]  # fmt: skip
    assert starts == [
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "text", "text": ""},
        {"type": "tool_use", "id": "c", "name": "f", "input": {}},
    ]


def test_rule_S_05_deltas_match_their_block_whatever_the_order() -> None:
    got = said(
        thought("a"), text("b"), thought("c"), call(0, '{"x":1}', id="c", name="f"), text("d"), end("tool_calls")
    )
    assert got.kinds == ["thinking", "text", "thinking", "tool_use", "text"]


def test_rule_S_06_thinking_ends_with_its_signature() -> None:
    assert all(block["signature"] for block in said(thought("a"), text("b"), end()).content[:1])


def test_rule_S_07_one_chunk_with_everything() -> None:
    calls = [{"index": 0, "id": "c", "function": {"name": "f", "arguments": '{"a":1}'}}]
    got = said(chunk({"reasoning": "r", "content": "t", "tool_calls": calls}), end("tool_calls"))
    assert [block["type"] for block in got.content] == ["thinking", "text", "tool_use"]
    assert got.tools == [("c", "f", {"a": 1})]


def test_rule_S_08_calls_that_interleave() -> None:
    got = said(
        call(0, "", id="a", name="f"), call(1, "", id="b", name="g"), call(0, '{"x":'), call(1, '{"y":'), call(0, "1}"),
        call(1, "2}"), end("tool_calls"),
    )  # fmt: skip
    assert got.tools == [("a", "f", {"x": 1}), ("b", "g", {"y": 2})]
    assert got.stop_reason == "tool_use"


@pytest.mark.parametrize(
    "pieces",
    [
        [call(0, "", id="a", name="get_"), call(0, "", name="weather"), call(0, '{"x":1}')],
        [call(0, "", id="a", name="get_weather"), call(0, '{"x"', id="a"), call(0, ":1}", id="a")],
        [call(0, "", id="a", name="get_weather"), call(0, '{"x"', name="get_weather"), call(0, ":1}")],
        [call(None, '{"x"', id="a", name="get_weather"), call(None, ":1}", id="a")],
    ],
    ids=["name in pieces", "id repeated", "name repeated", "no index"],
)
def test_rule_S_08_names_ids_and_indices(pieces: list[bytes]) -> None:
    assert said(*pieces, end("tool_calls")).tools == [("a", "get_weather", {"x": 1})]


def test_rule_S_08_a_missing_id_is_made_up_and_the_same_again() -> None:
    first, again = (said(call(0, "{}", name="f"), end("tool_calls")).tools for _ in range(2))
    assert first == again
    assert first[0][0].startswith("toolu_")


def test_rule_S_08_an_id_given_twice_is_made_two() -> None:
    got = said(call(0, "{}", id="a", name="f"), call(1, "{}", id="a", name="g"), end("tool_calls")).tools
    assert len({identity for identity, _, _ in got}) == 2


def test_rule_S_09_fragments_pass_as_they_come() -> None:
    stream = streamed(role(), call(0, '{"e":"', id="a", name="f"), call(0, "\\ud83d"), call(0, '\\ude00"}'),
                      end("tool_calls"))  # fmt: skip
    pieces = [d["delta"]["partial_json"] for n, d in events(stream, named=True) if n == "content_block_delta"]
    assert pieces == ['{"e":"', "\\ud83d", '\\ude00"}']
    assert read(stream).tools == [("a", "f", {"e": "😀"})]


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ("", {}),
        ("{}", {}),
        ("null", {}),
        ("[1]", {"value": [1]}),
        ("3061133", {"value": 3061133}),
        (' {"a":1} ', {"a": 1}),
    ],
)
def test_rule_S_09_arguments_become_an_object(arguments: str, value: Any) -> None:
    got = said(call(0, "", id="a", name="f"), call(0, arguments), end("tool_calls"))
    assert got.tools == [("a", "f", value)]
    assert got.stop_reason == "tool_use"


def test_rule_S_09_a_broken_call_is_closed_and_is_no_tool_use() -> None:
    assert said(call(0, '{"cmd":"rm","args":["-r', id="a", name="f"), end("tool_calls")).stop_reason == "max_tokens"


def test_rule_S_10_an_empty_answer_has_an_empty_text() -> None:
    got = said(end())
    assert got.kinds == ["text"]
    assert got.text() == ""


def test_rule_S_11_text_after_a_call() -> None:
    got = said(text("a"), call(0, '{"x":1}', id="c", name="f"), text("b"), end("tool_calls"))
    assert got.kinds == ["text", "tool_use", "text"]
    assert got.text() == "ab"


def test_rule_S_11_text_waits_for_a_call_that_is_not_whole() -> None:
    got = said(call(0, '{"x"', id="c", name="f"), text("b"), call(0, ":1}"), text("c"), end("tool_calls"))
    assert got.kinds == ["tool_use", "text"]
    assert (got.tools, got.text()) == ([("c", "f", {"x": 1})], "bc")


def test_rule_S_12_message_delta_repeats_the_whole_usage() -> None:
    got = said(text("Hi"), chunk(finish="stop"), usage(100, 7, cached=60, created=8, reasoning=2), DONE)
    assert got.usage["input_tokens"] == 32
    assert got.usage["cache_read_input_tokens"] == 60
    assert got.usage["cache_creation_input_tokens"] == 8
    assert got.usage["output_tokens"] == 7
    assert got.usage["output_tokens_details"] == {"thinking_tokens": 2}


def test_rule_S_12_without_usage_what_came_is_counted() -> None:
    assert said(text("a"), text("b"), chunk(finish="stop"), DONE).usage["output_tokens"] > 0


def test_rule_S_13_nothing_follows_message_stop() -> None:
    stream = streamed(role(), text("a"), end(), text("b"), DONE)
    assert stream.endswith(b'event: message_stop\ndata: {"type":"message_stop"}\n\n')
    assert b"[DONE]" not in stream


@pytest.mark.parametrize(
    "pieces",
    [
        [usage(9, 3), chunk(finish="stop"), DONE],
        [chunk(finish="stop", usage=counts(9, 3)), DONE],
        [chunk(finish="stop"), usage(9, 3)],
        [chunk(finish="stop"), usage(1, 1), usage(9, 3), DONE],
    ],
    ids=["before", "with", "no DONE", "twice"],
)
def test_rule_S_14_usage_wherever_it_stands(pieces: list[bytes]) -> None:
    got = said(text("a"), *pieces)
    assert (got.usage["input_tokens"], got.usage["output_tokens"]) == (9, 3)


def test_rule_S_14_without_a_finish_there_is_no_end() -> None:
    translation = Translation(MessagesStream(SHOWN, "msg_1"))
    out = translation.feed(role() + text("a")) + translation.feed(DONE) + translation.end()
    assert not translation.done
    assert b"message_stop" not in out
    read(out, ended=False)


def test_rule_S_15_other_choices_and_unknown_keys_are_ignored() -> None:
    other = event({"choices": [{"index": 1, "delta": {"content": "no"}, "finish_reason": "stop", "new": {}}], "x": 1})
    assert said(text("a"), other, text("b"), end()).text() == "ab"


def test_rule_S_16_no_event_types_of_our_own() -> None:
    stream = streamed(role(), thought("a"), text("b"), call(0, "{}", id="c", name="f"), end("tool_calls"))
    assert {name for name, _ in events(stream, named=True)} <= {
        "message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta",
        "message_stop",
    }  # fmt: skip


def test_rule_S_17_each_chunk_gives_its_events_at_once() -> None:
    translation = Translation(MessagesStream(SHOWN, "msg_1"))
    translation.feed(role())
    translation.feed(text("a"))
    assert [name for name, _ in events(translation.feed(text("b")), named=True)] == ["content_block_delta"]
    both = events(translation.feed(text("c") + text("d")), named=True)
    assert [data["delta"]["text"] for _, data in both] == ["c", "d"]


def test_rule_A_32_hidden_thinking_is_not_streamed() -> None:
    got = said(thought("a"), text("\n\nb"), end(), thinking="hidden")
    assert (got.kinds, got.text()) == (["text"], "b")


def test_rule_A_33_omitted_thinking_travels_in_its_signature() -> None:
    got = said(thought("deep "), thought("thought"), text("b"), end(), thinking="omitted")
    assert got.kinds == ["thinking", "text"]
    assert (got.text("thinking"), unseal(got.content[0]["signature"])) == ("", "deep thought")


def test_rule_A_48_a_prewarm_has_no_content() -> None:
    got = said(text("a"), chunk(finish="length"), usage(), DONE, prewarm=True)
    assert (got.content, got.stop_reason, got.usage["output_tokens"]) == ([], "max_tokens", 0)


def test_rule_B_07_blank_lines_after_thinking_go() -> None:
    assert said(thought("a"), text("\n"), text("\nHi\n"), text("\n!"), end()).text() == "Hi\n\n!"


def test_rule_B_08_a_refusal_is_text_and_says_so() -> None:
    got = said(chunk({"refusal": "I must not."}), end())
    assert (got.text(), got.stop_reason) == ("I must not.", "refusal")


@pytest.mark.parametrize("finish", ["abort", "error"])
def test_rule_E_11_an_engine_that_gave_up_is_no_end(finish: str) -> None:
    translation = Translation(MessagesStream(SHOWN, "msg_1"))
    out = translation.feed(role() + text("a") + chunk(finish=finish) + usage() + DONE) + translation.end()
    assert translation.error is not None
    assert not translation.done
    assert b"message_stop" not in out


def test_rule_E_10_an_error_in_the_stream_ends_the_answer() -> None:
    stream = MessagesStream(SHOWN, "msg_1")
    translation = Translation(stream)
    out = translation.feed(role() + text("a") + event({"error": {"message": "boom", "code": 500}}) + DONE)
    assert json.loads(translation.error or b"") == {"message": "boom", "code": 500}
    assert translation.feed(text("b")) + translation.end() == b""
    out += stream.error(CortexError("upstream_failed", "the engine failed", retry_after_s=1), "req_1")
    name, data = events(out, named=True)[-1]
    assert (name, data["error"]["type"], data["request_id"]) == ("error", "overloaded_error", "req_1")


class TestKeepAlive:
    def test_rule_K_03_before_the_first_word(self) -> None:
        stream = MessagesStream(SHOWN, "msg_1", input_tokens=77)
        translation = Translation(stream)
        out = stream.keepalive() + stream.keepalive()
        out += translation.feed(role() + text("Hi") + end())
        got = read(out)
        assert got.start["usage"]["input_tokens"] == 77
        assert (got.kinds, got.text(), got.usage["input_tokens"]) == (["text"], "Hi", 10)

    def test_rule_K_03_thinking_closes_the_early_text(self) -> None:
        stream = MessagesStream(SHOWN, "msg_1")
        out = stream.keepalive() + Translation(stream).feed(role() + thought("a") + text("b") + end())
        assert read(out).kinds == ["text", "thinking", "text"]

    @pytest.mark.parametrize("before", [text("a"), thought("a"), call(0, '{"a', id="c", name="f")])
    def test_rule_K_04_an_empty_delta_of_the_open_block(self, before: bytes) -> None:
        stream = MessagesStream(SHOWN, "msg_1")
        translation = Translation(stream)
        out = translation.feed(role() + before)
        kept = stream.keepalive()
        name, data = events(kept, named=True)[0]
        assert name == "content_block_delta"
        assert "" in data["delta"].values()
        rest = call(0, '":1}') if b"tool_calls" in before else text("b")
        read(out + PING + kept + translation.feed(rest + end("tool_calls" if rest != text("b") else "stop")))

    def test_rule_K_05_nothing_but_pings_before_message_start(self) -> None:
        assert read(PING + streamed(role(), text("a"), end())).pings == 1

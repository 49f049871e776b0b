"""rule R-07, R-08, K-03, K-04: the Responses stream, read as its clients do."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cortex_core.translate import opaque
from cortex_core.translate.chat_events import Translation, decode_chunk
from cortex_core.translate.responses import ResponsesStream, request
from tests.support.chunks import DONE, call, chunk, counts, end, event, role, text, thought, usage
from tests.support.readers.framing import events
from tests.support.readers.responses import Read, read
from tests.support.responses import CREATED, FACTS, said, streamed, translated, whole

MESSAGE = ["output_item.added", "content_part.added", "output_text.delta", "output_text.done", "content_part.done",
           "output_item.done"]  # fmt: skip
REASONING = [kind.replace("output_text", "reasoning_text") for kind in MESSAGE]
CALL = ["output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"]


def new() -> ResponsesStream:
    return ResponsesStream(translated()[1], "resp_1", CREATED)


def outcome(read: Read) -> tuple[str, str | None, list[str]]:
    """Status, why incomplete, and the types of the items that were done."""
    details = read.final["incomplete_details"]
    return read.final["status"], details and details["reason"], [item["type"] for item in read.items]


def test_rule_R_08_the_order_of_events() -> None:
    """fixture 7: reasoning, text, reasoning, call."""
    got = said(thought("hm"), text("Hi"), thought("so"), call(0, '{"a":1}', id="c1", name="f"), end("tool_calls"))
    assert got.kinds == ["created", "in_progress", *REASONING, *MESSAGE, *REASONING, *CALL, "completed"]
    assert [item["id"] for item in got.items] == ["rs_1_0", "msg_1_1", "rs_1_2", "fc_1_3"]
    assert got.text == "Hi"
    assert got.ran == [got.items[3]]
    done = next(one for one in got.events if one["type"] == "response.function_call_arguments.done")
    assert (done["name"], done["arguments"]) == ("f", '{"a":1}')


def test_rule_R_08_everything_in_one_chunk() -> None:
    """fixture 8."""
    everything = {
        "reasoning": "hm",
        "content": "Hi",
        "tool_calls": [{"index": 0, "id": "c1", "function": {"name": "f", "arguments": "{}"}}],
    }
    got = read(streamed([chunk(everything, "tool_calls"), usage(), DONE]))
    assert outcome(got) == ("completed", None, ["reasoning", "message", "function_call"])


def test_rule_R_08_interleaved_calls() -> None:
    """fixture 1: each call's arguments stay its own, one item at a time."""
    got = said(
        call(0, '{"a":', id="c0", name="f"), call(1, '{"b":', id="c1", name="g"), call(0, "1}"), call(1, "2}"),
        end("tool_calls"),
    )  # fmt: skip
    assert [(one["name"], one["call_id"], one["arguments"]) for one in got.ran] == [
        ("f", "c0", '{"a":1}'), ("g", "c1", '{"b":2}'),
    ]  # fmt: skip


def test_rule_R_08_a_call_is_done_as_soon_as_the_next_begins() -> None:
    """An agent runs it then, and not when all are done."""
    got = said(call(0, "{}", id="c0", name="f"), call(1, '{"b":', id="c1", name="g"), call(1, "2}"), end())
    assert got.kinds[2:10] == [*CALL, *CALL[:2], CALL[1], CALL[2]]


@pytest.mark.parametrize("cut", range(1, len('{"s":"\\ud83d\\ude00é"}') - 1))
def test_rule_R_08_arguments_split_anywhere(cut: int) -> None:
    """fixture 2: also inside an escape."""
    arguments = '{"s":"\\ud83d\\ude00é"}'
    got = said(call(0, arguments[:cut], id="c", name="f"), call(0, arguments[cut:]), end("tool_calls"))
    assert got.ran[0]["arguments"] == arguments


def test_rule_R_08_names_in_pieces_and_repeated() -> None:
    """fixture 3."""
    got = said(call(0, id="c", name="get_"), call(0, name="weather"), call(0, "{}"), end("tool_calls"))
    assert got.ran[0]["name"] == "get_weather"
    got = said(call(0, id="c", name="f"), call(0, "{", name="f"), call(0, "}", name="f"), end("tool_calls"))
    assert got.ran[0]["name"] == "f"


@pytest.mark.parametrize("ids", [(None, None), ("c", "c"), ("c", None)])
def test_rule_R_08_every_call_has_an_id_of_its_own(ids: tuple[str | None, str | None]) -> None:
    """fixture 4."""
    got = said(call(0, "{}", id=ids[0], name="f"), call(1, "{}", id=ids[1], name="g"), end("tool_calls"))
    assert len({one["call_id"] for one in got.ran} - {""}) == 2
    assert ids[0] is None or got.ran[0]["call_id"] == ids[0]


def test_rule_R_08_calls_without_an_index() -> None:
    got = said(call(None, "{}", id="c0", name="f"), call(None, "{}", id="c1", name="g"), end("tool_calls"))
    assert [one["name"] for one in got.ran] == ["f", "g"]


@pytest.mark.parametrize(
    ("sent", "got"), [("", "{}"), ("{}", "{}"), ("[1]", '{"value":[1]}'), (' {"a":1} ', ' {"a":1} ')]
)
def test_rule_R_08_odd_arguments(sent: str, got: str) -> None:
    """fixture 5."""
    read = said(call(0, sent, id="c", name="f"), end("tool_calls"))
    assert [one["arguments"] for one in read.ran] == [got]


def test_rule_R_08_content_beside_the_role() -> None:
    """fixture 6."""
    assert read(streamed([chunk({"role": "assistant", "content": "Hi"}), end()])).text == "Hi"


def test_rule_R_08_text_while_a_call_is_open_waits() -> None:
    got = said(call(0, '{"a"', id="c", name="f"), text("Hi"), call(0, ":1}"), text(" you"), end())
    assert [item["type"] for item in got.items] == ["function_call", "message"]
    assert got.text == "Hi you"


def test_rule_R_08_blank_text_before_a_call_is_no_item() -> None:
    got = said(thought("hm"), text("\n\n"), call(0, "{}", id="c", name="f"), end("tool_calls"))
    assert [item["type"] for item in got.items] == ["reasoning", "function_call"]
    assert said(text(" "), text("\n"), end()).text == " \n"


@pytest.mark.parametrize("other", [1, 7])
def test_rule_R_08_other_choices_are_ignored(other: int) -> None:
    """fixture 17."""
    stray = event({"choices": [{"index": other, "delta": {"content": "no"}, "finish_reason": "length"}]})
    assert said(text("Hi"), stray, end()).text == "Hi"


def test_rule_R_08_an_empty_completion_is_an_empty_message() -> None:
    """fixture 14."""
    got = said(end())
    assert outcome(got) == ("completed", None, ["message"])
    assert got.text == ""
    assert got.final["output"] == whole({"content": ""})["output"]


@pytest.mark.parametrize(
    "tail",
    [
        [chunk({}, "stop", usage=counts(10, 5, cached=4))],
        [chunk({}, "stop"), usage(10, 5, cached=4)],
        [usage(1, 1), chunk({}, "stop"), usage(10, 5, cached=4)],
    ],
)
def test_rule_R_07_usage_wherever_it_stands(tail: list[bytes]) -> None:
    """fixture 9: on the finish chunk, behind it, twice."""
    assert said(text("Hi"), *tail, DONE).final["usage"] == {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 15,
    }


def test_rule_R_07_usage_that_never_came_is_counted() -> None:
    """fixture 9."""
    assert said(text("Hi"), text("you"), chunk({}, "stop"), DONE).final["usage"]["output_tokens"] >= 2


def test_rule_R_07_the_response_repeats_its_request() -> None:
    fields: dict[str, Any] = {
        "instructions": "be\nkind", "temperature": 0.5, "max_output_tokens": 99, "metadata": {"a": "b"}, "user": "u",
        "reasoning": {"effort": "low", "summary": None}, "tool_choice": "auto", "parallel_tool_calls": False,
        "tools": [{"type": "function", "name": "f", "parameters": {}, "strict": False}, {"type": "web_search"}],
    }  # fmt: skip
    _, context = translated(model="asked/for", **fields)
    for final in (said(text("Hi"), end(), context=context).final, whole({"content": "Hi"}, context=context)):
        assert {key: final[key] for key in fields} == fields
        assert (final["id"], final["created_at"], final["model"]) == ("resp_1", CREATED, "asked/for")
        assert (final["store"], final["previous_response_id"]) == (False, None)


def test_rule_R_07_a_pretty_request_still_gives_events_of_one_line() -> None:
    body = json.dumps({"model": "m", "input": "hi", "tools": [{"type": "web_search"}]}, indent=2).encode()
    context = request(body, FACTS).context
    assert said(text("Hi"), end(), context=context).final["tools"] == [{"type": "web_search"}]


def test_rule_K_03_the_head_then_in_progress() -> None:
    stream = new()
    head = [data["type"] for _, data in events(stream.keepalive(), named=True)]
    assert head == ["response.created", "response.in_progress"]
    assert [name for name, _ in events(stream.keepalive(), named=True)] == ["response.in_progress"]


def test_rule_K_04_gaps_are_bridged_anywhere() -> None:
    """In the middle of items and between them; the stream stays as strict."""
    stream = new()
    translation = Translation(stream)
    pieces = [role(), thought("hm"), text("Hi"), call(0, '{"a"', id="c", name="f"), call(0, ":1}"), end()]
    got = read(b"".join(part for piece in pieces for part in (stream.keepalive(), translation.feed(piece))))
    assert got.kinds.count("in_progress") == len(pieces)
    assert outcome(got) == ("completed", None, ["reasoning", "message", "function_call"])


def test_rule_R_06_fixture_42_sealed_reasoning() -> None:
    """fixture 42: only for those who ask, and it comes back."""
    assert said(thought("hm"), end()).items[0]["encrypted_content"] is None
    _, context = translated(include=["reasoning.encrypted_content"])
    item = said(thought("h"), thought("m"), end(), context=context).items[0]
    assert item["content"] == [{"type": "reasoning_text", "text": "hm"}]
    assert opaque.unseal(item["encrypted_content"]) == "hm"
    bare = {"type": "reasoning", "summary": [], "encrypted_content": item["encrypted_content"]}
    follow_up = [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}]
    assert translated(input=[bare, *follow_up])[0]["messages"][0]["reasoning"] == "hm"


def test_rule_R_08_both_names_of_reasoning_are_one() -> None:
    assert said(chunk({"reasoning": "hm", "reasoning_content": "hm"}), end()).thought == "hm"
    assert said(chunk({"reasoning_content": "hm"}), end()).thought == "hm"


def test_rule_R_05_log_probabilities_for_those_who_ask() -> None:
    """Of the text alone: what stands beside reasoning is nothing that is shown with them (C-13)."""
    token = {"token": "Hi", "logprob": -0.5, "bytes": [72, 105], "top_logprobs": []}
    pieces = [
        chunk({"reasoning": "hm"}, logprobs={"content": [{**token, "token": "hm"}]}),
        chunk({"content": "Hi"}, logprobs={"content": [token]}),
        end(),
    ]
    _, context = translated(include=["message.output_text.logprobs"])
    assert said(*pieces, context=context).final["output"][1]["content"][0]["logprobs"] == [token]
    assert said(*pieces).final["output"][1]["content"][0]["logprobs"] == []


def test_a_chunk_without_anything_makes_no_event() -> None:
    stream = new()
    stream.keepalive()
    assert stream.feed(decode_chunk(b'{"choices":[]}')) == b""

"""Every row of what vLLM's own dialects refuse or damage (protocol 1.2 and 1.3) has a useful answer here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.support import native_rows as rows
from tests.support.chunks import DONE, answer, call, chunk, counts, end, event, function, role, text, thought, usage
from tests.support.gateway import Running
from tests.support.readers import messages as read_messages
from tests.support.readers import responses as read_responses
from tests.support.scripted import ScriptedNeuron, says, streams

ROWS = 27  # of protocol 1.2
MESSAGE = {"model": "tiny", "max_tokens": 100, "messages": [rows.ASK]}
RESPONSE = {"model": "tiny", "input": "Who are you?"}
OVER = chunk({}, "stop") + DONE


def test_every_row_has_a_test() -> None:
    found = re.findall(r"(?<![A-Z])V(\d+)", Path(__file__).read_text() + " ".join(row[0] for row in rows.MESSAGES))
    assert {int(number) for number in found} == set(range(1, ROWS + 1))


@pytest.mark.parametrize(("fields", "told", "untold"), [pytest.param(*row[1:], id=row[0]) for row in rows.MESSAGES])
async def test_messages_that_native_serving_refuses_or_damages(
    beast: ScriptedNeuron, served: Running, fields: dict[str, Any], told: tuple[str, ...], untold: tuple[str, ...]
) -> None:
    beast.answers = says(answer({"content": "I am tiny"}))
    got = await served.ask("POST", "/v1/messages", MESSAGE | fields)
    assert got.status == 200, got.body
    assert got.json["stop_reason"] in {"end_turn", "max_tokens"}
    sent = beast.asked[0].body.decode()
    assert [words for words in told if words not in sent] == []
    assert [words for words in untold if words in sent] == []


@pytest.mark.parametrize(
    ("pieces", "kinds", "stop"),
    [
        pytest.param(
            [call(0, '{"a":', id="a", name="f"), call(1, "{}", id="b", name="g"), call(0, "1}"), end("tool_calls")],
            ["tool_use", "tool_use"], "tool_use", id="V14",
        ),
        pytest.param([chunk({"role": "assistant", "content": "Hi"}), end()], ["text"], "end_turn", id="V15"),
        pytest.param([role(), b": keep-alive\n\n", text("Hi"), end()], ["text"], "end_turn", id="V17"),
        pytest.param([role(), text("Hi"), OVER], ["text"], "end_turn", id="V18"),
        pytest.param([role(), call(0, '{"a":1}', name="f"), end("tool_calls")], ["tool_use"], "tool_use", id="V19"),
        pytest.param(
            [role(), call(0, "{}", id="a", name="f"), text("so"), end("tool_calls")],
            ["tool_use", "text"], "tool_use", id="V20",
        ),
        pytest.param([role(), text("Hi"), end("repetition")], ["text"], "end_turn", id="V21"),
        pytest.param([role(), OVER], ["text"], "end_turn", id="V22"),
        pytest.param([role(), thought("hm"), text("Hi"), end()], ["thinking", "text"], "end_turn", id="V24"),
    ],
)  # fmt: skip
async def test_streams_that_native_serving_damages(
    beast: ScriptedNeuron, served: Running, pieces: list[bytes], kinds: list[str], stop: str
) -> None:
    beast.answers = streams(*pieces)
    got = await served.ask(
        "POST", "/v1/messages", MESSAGE | {"stream": True, "thinking": {"type": "adaptive"}, "tools": [rows.TOOL]}
    )
    read = read_messages.read(got.body)
    assert (read.kinds, read.stop_reason) == (kinds, stop)
    assert all(block["signature"] for block in read.content if block["type"] == "thinking")


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([event({"error": {"message": "secret pydantic text", "code": 500}}), DONE], id="V16"),
        pytest.param([chunk({}, "abort"), DONE], id="V21"),
    ],
)
async def test_a_stream_that_fails_says_so_in_the_dialect(
    beast: ScriptedNeuron, served: Running, pieces: list[bytes]
) -> None:
    beast.answers = streams(role(), text("Hi"), *pieces)
    got = await served.ask("POST", "/v1/messages", MESSAGE | {"stream": True})
    last = got.body.rstrip().rpartition(b"event: ")[2]
    assert last.startswith(b"error")
    assert b"overloaded_error" in last
    assert b"secret" not in got.body
    assert not got.whole


@pytest.mark.parametrize(
    ("arguments", "input_"), [("", {}), ("[1]", {"value": [1]}), ('"x"', {"value": "x"}), ('{"cmd": "rm -rf /ho', None)]
)
async def test_V23_arguments_of_any_kind(
    beast: ScriptedNeuron, served: Running, arguments: str, input_: dict[str, Any] | None
) -> None:
    beast.answers = says(answer({"tool_calls": [function("c", "get_weather", arguments)]}, "tool_calls"))
    got = await served.ask("POST", "/v1/messages", MESSAGE | {"tools": [rows.TOOL]})
    uses = [block["input"] for block in got.json["content"] if block["type"] == "tool_use"]
    assert uses == ([] if input_ is None else [input_])
    assert got.json["stop_reason"] == ("max_tokens" if input_ is None else "tool_use")


async def test_V24_an_answer_has_all_that_a_message_has(beast: ScriptedNeuron, served: Running) -> None:
    beast.answers = says(answer({"content": "Hi", "reasoning": "hm"}))
    got = await served.ask("POST", "/v1/messages", MESSAGE | {"thinking": {"type": "adaptive"}})
    assert got.json["id"].startswith("msg_")
    assert got.headers["request-id"].startswith("req_")
    assert [block["type"] for block in got.json["content"]] == ["thinking", "text"]
    assert got.json["content"][0]["signature"]
    assert got.json["usage"]["service_tier"] == "standard"
    assert {"cache_read_input_tokens", "cache_creation_input_tokens", "cache_creation"} <= got.json["usage"].keys()


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        (b"{", 400, "invalid_request_error"),
        (b'{"model":"nope","max_tokens":1,"messages":[]}', 404, "not_found_error"),
        (b'{"model":"tiny","max_tokens":1,"messages":5}', 400, "invalid_request_error"),
    ],
)
async def test_V25_errors_are_the_dialects(served: Running, body: bytes, status: int, kind: str) -> None:
    got = await served.ask("POST", "/v1/messages", body)
    assert (got.status, got.json["type"], got.error["type"]) == (status, "error", kind)


async def test_V27_reasoning_that_nobody_asked_for_is_not_shown(beast: ScriptedNeuron, served: Running) -> None:
    beast.answers = says(answer({"content": "Hi", "reasoning": "hm"}))
    got = await served.ask("POST", "/v1/messages", MESSAGE)
    assert [block["type"] for block in got.json["content"]] == ["text"]
    got = await served.ask("POST", "/v1/messages", MESSAGE | {"thinking": {"type": "adaptive", "display": "omitted"}})
    assert [(b["type"], b.get("thinking")) for b in got.json["content"]] == [("thinking", ""), ("text", None)]


@pytest.mark.parametrize(("fields", "told", "untold"), [pytest.param(*row[1:], id=row[0]) for row in rows.RESPONSES])
async def test_responses_that_native_serving_refuses_or_damages(
    beast: ScriptedNeuron, served: Running, fields: dict[str, Any], told: tuple[str, ...], untold: tuple[str, ...]
) -> None:
    beast.answers = says(answer({"content": "I am tiny"}))
    got = await served.ask("POST", "/v1/responses", RESPONSE | fields)
    assert (got.status, got.json["status"]) == (200, "completed"), got.body
    sent = beast.asked[0].body.decode()
    assert [words for words in told if words not in sent] == []
    assert [words for words in untold if words in sent] == []


@pytest.mark.parametrize(("fields", "code", "param"), [pytest.param(*row[1:], id=row[0]) for row in rows.REFUSED])
async def test_responses_that_nobody_could_answer_are_refused_by_name(
    beast: ScriptedNeuron, served: Running, fields: dict[str, Any], code: str | None, param: str
) -> None:
    got = await served.ask("POST", "/v1/responses", RESPONSE | fields)
    assert (got.status, got.error["code"], got.error["param"]) == (400, code, param)
    assert len(got.error["message"]) < 300, "one sentence, not 237 validation errors"
    assert beast.asked == []


@pytest.mark.parametrize(
    ("pieces", "kind", "status"),
    [
        ([role(), text("Hi"), chunk({}, "length"), usage(), DONE], "incomplete", "incomplete"),
        ([role(), text("Hi"), event({"error": {"message": "x", "code": 500}}), DONE], "failed", "failed"),
        ([role(), text("Hi"), end()], "completed", "completed"),
    ],
)
async def test_a_responses_stream_ends_as_it_ended(
    beast: ScriptedNeuron, served: Running, pieces: list[bytes], kind: str, status: str
) -> None:
    beast.answers = streams(*pieces)
    got = await served.ask("POST", "/v1/responses", RESPONSE | {"stream": True})
    read = read_responses.read(got.body)
    assert (read.kinds[-1], read.final["status"]) == (kind, status)
    assert read.final["output"][0]["status"] == ("completed" if kind == "completed" else "incomplete")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("DELETE", "/v1/responses/resp_1", 404),
        ("GET", "/v1/responses/resp_1/input_items", 404),
        ("POST", "/v1/responses/compact", 501),
        ("POST", "/v1/responses/input_tokens", 200),
    ],
)
async def test_paths_that_native_serving_lacks(
    beast: ScriptedNeuron, served: Running, method: str, path: str, status: int
) -> None:
    beast.answers = says({"count": 3, "usage": counts()})
    got = await served.ask(method, path, RESPONSE if method == "POST" else b"")
    assert got.status == status

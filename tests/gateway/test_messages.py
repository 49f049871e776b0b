"""`POST /v1/messages` through the whole gateway: what an Anthropic client hears, whatever the engine does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from cortex_gateway.relay import rendering, silence
from tests.support.gateway import BIG, TINY, Got, Running, drained, gateway
from tests.support.readers import messages as reader
from tests.support.scripted import ANSWER, DONE, HELLO, Answers, ScriptedNeuron, chunk, refuses, says, streams
from tests.support.until import until_async

PATH = "/v1/messages"
BODY: dict[str, Any] = {"model": "tiny", "max_tokens": 100, "messages": [{"role": "user", "content": "Who are you?"}]}
TOO_LONG = (
    "This model's maximum context length is 8192 tokens. However, your prompt contains at least 8193 input tokens, "
    "which exceeds this limit even without any output tokens."
)


async def ask(served: Running, path: str = PATH, **fields: Any) -> Got:
    return await served.ask("POST", path, BODY | fields, {"anthropic-version": "2023-06-01"})


async def test_engines_get_chat_completions_and_clients_a_message(beast: ScriptedNeuron, served: Running) -> None:
    beast.answers = says(ANSWER)
    got = await ask(served, path="/v1/messages?beta=true", system="Be brief")
    (asked,) = beast.asked
    assert asked.path == "/v1/chat/completions"
    sent = msgspec.json.decode(asked.body)
    assert (sent["model"], sent["max_tokens"]) == ("tiny", 100)
    assert [message["role"] for message in sent["messages"]] == ["system", "user"]
    assert got.status == 200
    assert got.json["content"] == [{"type": "text", "text": "I am tiny"}]
    assert (got.json["stop_reason"], got.json["model"]) == ("end_turn", "tiny")
    assert (got.json["usage"]["input_tokens"], got.json["usage"]["cache_read_input_tokens"]) == (4, 5)
    where = {"neuron": "beast", "model": "tiny"}
    assert await served.metric("cortex_requests_total", **where, dialect="anthropic-messages") == 1
    assert await served.metric("cortex_completion_tokens_total", **where) == 4


async def test_rule_H_04_a_stream_is_translated_event_by_event(beast: ScriptedNeuron, served: Running) -> None:
    seen = asyncio.Event()
    beast.answers = streams(*HELLO, pause=seen.wait)
    body = msgspec.json.encode(BODY | {"stream": True})
    async with served.client.request("POST", PATH, body=body) as response:
        first = await response.read_some()
        assert b"message_start" in first
        seen.set()
        rest, whole = await drained(response)
        headers = {name.decode(): value.decode() for name, value in response.headers}
    assert whole
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["cache-control"] == "no-cache"
    assert headers["x-accel-buffering"] == "no"
    assert "content-length" not in headers
    said = reader.read(first + rest)
    assert (said.text(), said.stop_reason, said.usage["output_tokens"]) == ("Hello world", "end_turn", 3)
    assert await served.metric("cortex_completion_tokens_total", neuron="beast", model="tiny") == 3
    assert await served.metric("cortex_time_to_first_token_seconds_count", neuron="beast", model="tiny") == 1


async def test_rule_H_03_every_answer_has_its_request_id(beast: ScriptedNeuron, served: Running) -> None:
    beast.answers = says(ANSWER)
    paths = ("/v1/messages/nothing", "/v1/messages/count_tokens")
    answers = [await ask(served), await ask(served, stream=True), await ask(served, model="nope")]
    answers += [await ask(served, path=path) for path in paths]
    for got in answers:
        assert got.headers["request-id"].startswith("req_")
        assert got.headers["request-id"] == got.headers["x-request-id"]
    assert len({got.headers["request-id"] for got in answers}) == len(answers)
    assert answers[2].json["request_id"] == answers[2].headers["request-id"]


@pytest.mark.parametrize(
    "headers",
    [
        {"x-api-key": "k"},
        {"authorization": "Bearer k", "anthropic-version": "2026-10-21"},
        {"api-key": "k", "x-app": "cli", "x-stainless-lang": "js", "anthropic-dangerous-direct-browser-access": "true"},
    ],
)
async def test_rule_H_01_H_02_fixture_47_any_key_and_any_version_and_none_goes_on(
    beast: ScriptedNeuron, served: Running, headers: dict[str, str]
) -> None:
    beast.answers = says(ANSWER)
    more = {"anthropic-beta": "unheard-of-2030-01-01, context-1m-2025-08-07"}
    assert (await served.ask("POST", PATH, BODY, headers | more)).status == 200
    sent = beast.asked[0].headers
    assert not {*headers, *more} & sent.keys()


@pytest.mark.parametrize(
    ("fields", "status", "kind", "says_"),
    [
        ({"max_tokens": None}, 400, "invalid_request_error", "max_tokens"),
        ({"messages": "hi"}, 400, "invalid_request_error", "messages"),
        ({"model": "nope"}, 404, "not_found_error", "model: nope"),
        ({"model": 7}, 400, "invalid_request_error", "model"),
    ],
)
async def test_rule_E_01_E_02_E_04_E_09_errors_before_the_first_byte(
    served: Running, fields: dict[str, Any], status: int, kind: str, says_: str
) -> None:
    for stream in (False, True):
        got = await ask(served, stream=stream, **fields)
        assert got.status == status
        assert got.json["type"] == "error"
        assert (got.error["type"], says_ in got.error["message"]) == (kind, True)
        assert "retry-after" not in got.headers


@pytest.mark.parametrize(
    ("answers", "status", "kind", "message"),
    [
        (says({"error": {"message": TOO_LONG, "code": 400}}, 400), 400, "invalid_request_error",
         "prompt is too long: 8193 tokens > 8192 maximum"),
        (refuses("context_exceeded", details={"context": 100}), 400, "invalid_request_error",
         "prompt is too long: 101 tokens > 100 maximum"),
        (says(b"Traceback: secret host 10.0.0.7", 500), 529, "overloaded_error", "the engine could not answer"),
        (says(b"busy", 429), 429, "rate_limit_error", "the engine takes no more requests now"),
        (streams(chunk("half")[:-2], end="cut"), 529, "overloaded_error",
         "the connection to the engine broke before it answered"),
    ],
)  # fmt: skip
async def test_rule_E_03_E_05_E_08_what_engines_say_in_anthropics_words(
    beast: ScriptedNeuron, served: Running, answers: Answers, status: int, kind: str, message: str
) -> None:
    beast.answers = answers
    got = await ask(served, stream=not message.startswith("the connection"))
    assert (got.status, got.error) == (status, {"type": kind, "message": message})
    retryable = status in (429, 529)
    assert ("retry-after" in got.headers) is retryable
    if retryable:
        assert 1 <= int(got.headers["retry-after"]) <= 30


@pytest.mark.parametrize(
    "answers",
    [
        streams(*HELLO[:3], end="cut"),
        streams(*HELLO[:3], end="clean"),
        streams(*HELLO[:3], b'data: {"error":{"message":"secret","code":500}}\n\n', DONE),
        streams(*HELLO[:3], chunk(finish="abort"), DONE),
    ],
)
async def test_rule_E_10_E_12_a_stream_that_breaks_says_so_and_is_cut(
    beast: ScriptedNeuron, served: Running, answers: Answers
) -> None:
    beast.answers = answers
    got = await ask(served, stream=True)
    assert (got.status, got.whole) == (200, False)
    stream, _, last = got.body.removesuffix(b"\n\n").rpartition(b"\n\n")
    assert reader.read(stream + b"\n\n", ended=False).text() == "Hello world"
    name, _, data = last.partition(b"\n")
    assert name == b"event: error"
    error = msgspec.json.decode(data.removeprefix(b"data: "))
    assert error["error"]["type"] == "overloaded_error"
    assert error["request_id"] == got.headers["request-id"]
    assert "secret" not in error["error"]["message"]
    assert await served.metric("cortex_request_errors_total", code="upstream_failed") == 1


async def test_an_upstream_that_ends_without_its_terminal_event_has_ended_if_it_finished(
    beast: ScriptedNeuron, served: Running
) -> None:
    beast.answers = streams(*HELLO[:4])
    got = await ask(served, stream=True)
    assert got.whole
    assert reader.read(got.body).text() == "Hello world"


@pytest.fixture
async def impatient(beast: ScriptedNeuron) -> AsyncIterator[Running]:
    beast.ready("tiny", profile=TINY)
    async with gateway([beast], [TINY, BIG], hold_s=0.2, hold_not_streaming_s=0.2) as running:
        await running.up("beast")
        yield running


async def test_rule_K_03_a_long_prefill_opens_a_text_block_that_the_answer_goes_on_in(
    beast: ScriptedNeuron, impatient: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silence, "KEEP_ALIVE_S", 0.05)
    go_on = asyncio.Event()

    async def answer(asked: Any, send: Any) -> None:
        await go_on.wait()
        await streams(*HELLO)(asked, send)

    beast.answers = answer
    body = msgspec.json.encode(BODY | {"stream": True})
    async with impatient.client.request("POST", PATH, body=body) as response:
        heard = b""
        while heard.count(b"text_delta") < 3:
            heard += await response.read_some()
        go_on.set()
        rest, whole = await drained(response)
    assert whole
    said = reader.read(heard + rest)
    assert said.start["usage"]["input_tokens"] > 0
    assert (said.kinds, said.text()) == (["text"], "Hello world")
    assert said.usage["input_tokens"] == 7


async def test_rule_K_04_silence_within_an_answer_is_pings_and_now_and_then_a_delta(
    beast: ScriptedNeuron, served: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silence, "KEEP_ALIVE_S", 0.02)
    monkeypatch.setattr(rendering, "DELTA_EVERY", 3)
    go_on = asyncio.Event()
    beast.answers = streams(b"".join(HELLO[:2]), *HELLO[2:], pause=go_on.wait)
    body = msgspec.json.encode(BODY | {"stream": True})
    async with served.client.request("POST", PATH, body=body) as response:
        heard = b""
        while heard.count(b"event: ping") < 4:
            heard += await response.read_some()
        go_on.set()
        rest, whole = await drained(response)
    assert whole
    said = reader.read(heard + rest)
    assert said.text() == "Hello world"
    assert said.pings >= 4
    after = heard.partition(b'"Hello"')[2]
    assert [b'"text":""' in event for event in after.split(b"\n\n")[1:5]] == [False, False, True, False]


async def test_rule_K_01_K_02_who_cannot_be_served_in_time_is_held_first_and_then_told_to_come_again(
    beast: ScriptedNeuron, impatient: Running
) -> None:
    gate = asyncio.Event()

    async def load(_: Any) -> None:
        await gate.wait()

    beast.load = load
    for stream in (False, True):
        began = time.monotonic()
        got = await ask(impatient, model="big", stream=stream)
        assert time.monotonic() - began >= 0.2
        assert (got.status, got.error["type"]) == (529, "overloaded_error")
        assert 1 <= int(got.headers["retry-after"]) <= 30
    assert len(beast.loads) == 1
    gate.set()

    async def loaded() -> bool:
        return any(model.id == "big" and model.loaded for model in (await impatient.fleet()).models)

    await until_async(loaded, what="the load went on")


async def test_rule_T_01_tokens_are_counted_by_the_engine_that_is_there(beast: ScriptedNeuron, served: Running) -> None:
    beast.answers = says({"count": 42, "max_model_len": 100, "tokens": []})
    path = "/v1/messages/count_tokens"
    tools = [{"name": "f", "input_schema": {"type": "object"}}]
    got = await served.ask("POST", path, {"model": "tiny", "messages": BODY["messages"], "tools": tools})
    assert (got.status, got.json) == (200, {"input_tokens": 42})
    (asked,) = beast.asked
    assert asked.path == "/tokenize"
    assert set(msgspec.json.decode(asked.body)) >= {"model", "messages", "tools"}
    assert await served.metric("cortex_requests_total") == 0


@pytest.mark.parametrize("answers", [says(b"broken", 500), says({"no": "count"}), refuses("not_loaded")])
async def test_rule_T_01_what_nobody_counts_is_estimated_and_nothing_is_loaded(
    beast: ScriptedNeuron, served: Running, answers: Answers
) -> None:
    beast.answers = answers
    for model in ("tiny", "big"):
        got = await served.ask("POST", "/v1/messages/count_tokens", {"model": model, "messages": BODY["messages"]})
        assert got.status == 200
        assert 5 < got.json["input_tokens"] < 100
    assert beast.loads == []


async def test_rule_H_12_H_13_who_leaves_ends_the_engines_work(beast: ScriptedNeuron, served: Running) -> None:
    for stream in (False, True):
        beast.answers = streams(*HELLO, pause=asyncio.Event().wait)
        body = msgspec.json.encode(BODY | {"stream": stream})

        async def at_work() -> bool:
            return beast.running == 1

        async def ended() -> bool:
            return beast.running == 0

        async with asyncio.TaskGroup() as tasks:
            asking = tasks.create_task(served.ask("POST", PATH, body))
            await until_async(at_work, what="the engine works")
            asking.cancel()
            await until_async(ended, what="the engine was told")

"""`POST /v1/responses` through the whole gateway: what Codex and the OpenAI SDK hear, whatever the engine does."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from cortex_gateway.relay import silence
from tests.support.gateway import Got, Running, drained
from tests.support.readers import responses as reader
from tests.support.readers.framing import events
from tests.support.scripted import ANSWER, DONE, HELLO, Answers, ScriptedNeuron, chunk, says, streams

PATH = "/v1/responses"
BODY: dict[str, Any] = {"model": "tiny", "input": "Who are you?"}


async def ask(served: Running, path: str = PATH, **fields: Any) -> Got:
    return await served.ask("POST", path, BODY | fields)


async def test_engines_get_chat_completions_and_clients_a_response(beast: ScriptedNeuron, served: Running) -> None:
    beast.answers = says(ANSWER)
    got = await ask(served, instructions="Be brief", max_output_tokens=100)
    (asked,) = beast.asked
    assert asked.path == "/v1/chat/completions"
    sent = msgspec.json.decode(asked.body)
    assert [message["role"] for message in sent["messages"]] == ["system", "user"]
    assert sent["max_completion_tokens"] == 100
    assert got.status == 200
    reader.check_response(got.json)
    assert reader.text_of(got.json["output"]) == "I am tiny"
    assert (got.json["status"], got.json["model"]) == ("completed", "tiny")
    assert got.json["id"] == "resp_" + got.headers["x-request-id"].removeprefix("req_")
    assert await served.metric("cortex_requests_total", neuron="beast", dialect="openai-responses") == 1


async def test_a_stream_is_translated_and_counted(served: Running) -> None:
    got = await ask(served, stream=True)
    assert (got.status, got.whole) == (200, True)
    said = reader.read(got.body)
    assert (said.text, said.final["usage"]["output_tokens"]) == ("Hello world", 3)
    assert await served.metric("cortex_completion_tokens_total", neuron="beast", model="tiny") == 3


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_not_found", "previous_response_id"),
        ({"background": True}, None, "background"),
        ({"input": None}, None, "input"),
    ],
)
async def test_fixture_43_what_needs_a_memory_is_refused(
    served: Running, fields: dict[str, Any], code: str | None, param: str
) -> None:
    got = await ask(served, **fields)
    assert (got.status, got.error["code"], got.error["param"]) == (400, code, param)


async def test_rule_E_05_fixture_48_codex_is_told_of_a_full_context(beast: ScriptedNeuron, served: Running) -> None:
    message = "This model's maximum context length is 8 tokens. However, your prompt contains 9 input tokens"
    beast.answers = says({"error": {"message": message, "code": 400}}, 400)
    got = await ask(served, stream=True)
    assert (got.status, got.error["code"], got.error["param"]) == (400, "context_length_exceeded", "input")


@pytest.mark.parametrize(
    "answers",
    [
        streams(*HELLO[:3], end="cut"),
        streams(*HELLO[:3], end="clean"),
        streams(*HELLO[:3], b'data: {"error":{"message":"secret","code":500}}\n\n', DONE),
        streams(*HELLO[:3], chunk(finish="abort"), DONE),
    ],
)
async def test_rule_E_06_E_10_E_12_a_stream_that_breaks_ends_as_failed_and_is_cut(
    beast: ScriptedNeuron, served: Running, answers: Answers
) -> None:
    beast.answers = answers
    got = await ask(served, stream=True)
    assert (got.status, got.whole) == (200, False)
    said = reader.read(got.body)
    assert said.kinds[-1] == "failed"
    assert said.final["error"]["code"] == "server_error"
    assert "secret" not in said.final["error"]["message"]


async def test_rule_K_03_K_04_silence_is_filled_with_what_codex_counts(
    beast: ScriptedNeuron, served: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silence, "KEEP_ALIVE_S", 0.05)
    go_on = asyncio.Event()
    beast.answers = streams(*HELLO, pause=go_on.wait)
    body = msgspec.json.encode(BODY | {"stream": True})
    async with served.client.request("POST", PATH, body=body) as response:
        heard = b""
        while heard.count(b"event: response.in_progress") < 4:
            heard += await response.read_some()
        go_on.set()
        rest, whole = await drained(response)
    assert whole
    named = events(heard + rest, named=True)
    assert [name for name, _ in named[:2]] == ["response.created", "response.in_progress"]
    assert [data["sequence_number"] for _, data in named] == list(range(len(named)))
    assert named[-1][0] == "response.completed"
    assert reader.text_of(named[-1][1]["response"]["output"]) == "Hello world"


async def test_rule_R_10_tokens_are_counted(beast: ScriptedNeuron, served: Running) -> None:
    beast.answers = says({"count": 42})
    got = await ask(served, path="/v1/responses/input_tokens")
    assert (got.status, got.json) == (200, {"object": "response.input_tokens", "input_tokens": 42})
    got = await ask(served, path="/v1/responses/input_tokens", model="big")
    assert (got.status, got.json["input_tokens"] > 5) == (200, True)
    assert beast.loads == []


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/responses/resp_1", 404),
        ("DELETE", "/v1/responses/resp_1", 404),
        ("POST", "/v1/responses/resp_1/cancel", 404),
        ("GET", "/v1/responses/resp_1/input_items", 404),
        ("POST", "/v1/responses/compact", 501),
    ],
)
async def test_rule_R_10_nothing_is_stored(served: Running, method: str, path: str, status: int) -> None:
    got = await served.ask(method, path)
    assert got.status == status
    assert got.error["type"] == "invalid_request_error"
    assert ("x-should-retry" in got.headers) is (status == 501)

"""Whatever a client sends, it gets a plain answer that says what is wrong: never a 500, never a traceback."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest

from tests.e2e.conftest import BEAST, BENJY, GIANT, PROFILES, REPLICA_MB, Cluster
from tests.support.chat import Answer, Chat

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hello"}]


class Bad(NamedTuple):
    body: bytes
    status: int
    says: str
    method: str = "POST"
    path: str = CHAT
    code: str | None = None


def chat_body(**fields: Any) -> bytes:
    return json.dumps({"model": BEAST, "messages": HELLO} | fields).encode()


BAD = {
    "no body": Bad(b"", 400, "empty"),
    "no JSON": Bad(b"hello", 400, "JSON"),
    "half a JSON": Bad(b'{"model": "a', 400, "JSON"),
    "two JSONs": Bad(b"{}{}", 400, "JSON"),
    "a list": Bad(b"[]", 400, "object"),
    "null": Bad(b"null", 400, "object"),
    "a number": Bad(b"1", 400, "object"),
    "NaN": Bad(b'{"model": NaN}', 400, "JSON"),
    "not UTF-8": Bad(b'{"model": "\xff"}', 400, "UTF-8"),
    "UTF-16": Bad('{"model": "a"}'.encode("utf-16"), 400, ""),
    "a bomb of brackets": Bad(b'{"model":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, ""),
    "no model": Bad(b"{}", 400, "model"),
    "model null": Bad(b'{"model": null}', 400, "model"),
    "model a number": Bad(chat_body(model=1), 400, "model"),
    "model empty": Bad(chat_body(model=""), 400, "model"),
    "model a path": Bad(chat_body(model="../../etc/passwd"), 404, "model", code="model_not_found"),
    "model with a line break": Bad(chat_body(model="a\r\nx: y"), 404, "model", code="model_not_found"),
    "model unknown": Bad(chat_body(model="unknown"), 404, "`unknown`", code="model_not_found"),
    "stream a word": Bad(chat_body(stream="yes"), 400, "stream"),
    "no room ever": Bad(chat_body(model=GIANT), 400, "MB", code="model_cannot_fit"),
    "wrong path": Bad(chat_body(), 404, "", path="/v1/chat", code="not_found"),
    "a neuron's path": Bad(chat_body(), 404, "", path="/demand", code="not_found"),
    "a neuron's command": Bad(chat_body(), 405, "", path="/models/load", code="method_not_allowed"),  # a model's name
    "wrong method": Bad(b"", 405, "", method="GET", code="method_not_allowed"),
    "another wrong method": Bad(b"", 405, "", method="DELETE", path="/v1/models", code="method_not_allowed"),
    "completions without a body": Bad(b"", 400, "empty", path="/v1/completions"),
    "completions of an unknown model": Bad(
        b'{"model":"unknown","prompt":"a"}', 404, "unknown", path="/v1/completions", code="model_not_found"
    ),
    "a model nobody knows": Bad(b"", 404, "unknown", method="GET", path="/v1/models/unknown", code="model_not_found"),
}


def check_refused(answer: Answer, status: int) -> dict[str, Any]:
    """The error's inner object: OpenAI's envelope and nothing else."""
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    assert "retry-after" not in answer.headers, "it would be refused again"
    error = answer.body["error"]
    assert {"message", "type", "param", "code"} <= set(error)
    assert error["type"] == "invalid_request_error"
    return error


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
async def test_bad_input_is_refused_with_a_reason(sim: Cluster, chat: Chat, bad: Bad) -> None:
    error = check_refused(await chat.send(bad.method, bad.path, bad.body, content_type="application/json"), bad.status)
    assert bad.says in error["message"]
    if bad.code:
        assert error["code"] == bad.code


@pytest.mark.parametrize("length", ["declared", "chunked"])
async def test_a_body_over_the_limit_is_413(sim: Cluster, chat: Chat, length: str) -> None:
    body = chat_body(messages=[{"role": "user", "content": "x" * (1 << 20)}])
    if length == "declared":
        answer = await chat.send("POST", CHAT, body)
    else:

        async def pieces() -> Any:
            for start in range(0, len(body), 1 << 16):
                yield body[start : start + (1 << 16)]

        async with chat.session.post(chat.url + CHAT, data=pieces()) as response:
            answer = Answer(response.status, {k.lower(): v for k, v in response.headers.items()})
            answer.body = await response.json()
    error = check_refused(answer, 413)
    assert "1 MB" in error["message"] or "1048576" in error["message"], "it says the limit"


async def test_a_body_at_the_limit_is_none_too_many(sim: Cluster, chat: Chat) -> None:
    room = (1 << 20) - len(chat_body(messages=[{"role": "user", "content": ""}], max_tokens=1))
    body = chat_body(messages=[{"role": "user", "content": "x" * room}], max_tokens=1)
    assert len(body) == 1 << 20
    assert (await chat.send("POST", CHAT, body)).clean


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_a_model_that_can_never_fit_is_told_with_the_numbers_and_evicts_nobody(
    sim: Cluster, chat: Chat, stream: bool
) -> None:
    sim.empty()
    for neuron in sim.neurons:
        sim.load(neuron, BEAST)
        sim.load(neuron, BENJY)
    before = [(replica["id"], replica["version"]) for _, replica in sim.replicas()]
    answer = await chat.ask(GIANT, stream=stream)
    error = check_refused(answer, 400)
    assert error["code"] == "model_cannot_fit"
    needs = next(profile["vram_mb"] for profile in PROFILES if profile["id"] == GIANT)
    has = 2 * REPLICA_MB + 100
    for number in (needs, has):
        assert str(number) in error["message"], error
    assert {needs, has} <= set(_numbers(error["details"])), "the numbers for a program"
    assert [(replica["id"], replica["version"]) for _, replica in sim.replicas()] == before


def _numbers(value: Any) -> list[int]:
    if isinstance(value, dict):
        return [number for inner in value.values() for number in _numbers(inner)]
    if isinstance(value, list):
        return [number for inner in value for number in _numbers(inner)]
    return [value] if isinstance(value, int) else []


async def test_what_the_engine_refuses_is_passed_on_in_the_same_envelope(sim: Cluster, chat: Chat) -> None:
    answer = await chat.ask(BEAST, "word " * 9000, max_tokens=1_000_000, stream=False)
    error = check_refused(answer, 400)
    assert error["code"] == "context_length_exceeded"
    assert "8192" in error["message"]


async def test_none_of_this_left_a_traceback_or_a_prompt_in_a_log(sim: Cluster, chat: Chat) -> None:
    secret = "quite-private-words"
    await chat.ask(BEAST, secret, max_tokens=2)
    await chat.send("POST", CHAT, json.dumps({"model": BEAST, "messages": secret}).encode())
    await chat.send("POST", CHAT, secret.encode())
    said = sim.logs()
    assert "Traceback" not in said
    assert secret not in said

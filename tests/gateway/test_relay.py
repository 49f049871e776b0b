"""What goes wrong between gateway and engine, and what the client hears of it."""

from __future__ import annotations

import asyncio
import inspect

import msgspec
import pytest

from cortex_core.http import Client, EventStream, Send
from cortex_gateway.relay import silence
from tests.support.gateway import CHAT, TINY, Running, drained, gateway
from tests.support.scripted import (
    ANSWER,
    DONE,
    HELLO,
    USAGE,
    Answers,
    Asked,
    ScriptedNeuron,
    chunk,
    in_turn,
    refuses,
    says,
    streams,
)
from tests.support.until import until_async

# ---------------------------------------------------------------------------------------------- the engine's errors


TOO_LONG = {"error": {"message": "This model's maximum context length is 5 tokens", "code": 400}}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("answers", "status", "code", "about"),
    [
        (says({"error": {"message": "bad top_k", "param": "top_k", "code": 400}}, 400), 400, None, "bad top_k"),
        (says({"object": "error", "message": "bad", "code": 400}, 400), 400, None, "bad"),
        (says(TOO_LONG, 400), 400, "context_length_exceeded", "context"),
        (refuses("context_exceeded"), 400, "context_length_exceeded", "context"),
        (refuses("bad_request", field="top_k"), 400, None, "bad_request"),
        (refuses("duplicate", executed="yes"), 503, "upstream_failed", "could not answer"),
        (refuses("engine_died", executed="unknown"), 503, "upstream_failed", "could not answer"),
        (says(b"Traceback: secret", 500), 503, "upstream_failed", "could not answer"),
        (says(b"busy", 429), 429, "rate_limit_exceeded", "no more"),
        (says(b"", 501), 400, None, "another task"),
        (says({"detail": "Not Found"}, 404), 400, None, "another task"),
        (says(b"no answer at all"), 503, "upstream_failed", ""),
        (streams(chunk("half"), end="cut"), 503, "upstream_failed", "broke"),
    ],
)
async def test_F12_an_error_instead_of_an_answer(
    beast: ScriptedNeuron, served: Running, streamed: bool, answers: Answers, status: int, code: str | None, about: str
) -> None:
    if streamed and about == "broke":
        answers = streams(chunk("half")[:-2], end="cut")  # not even one event
    beast.answers = answers
    got = await served.chat(stream=streamed)
    assert (got.status, got.error["code"]) == (status, code)
    assert about in got.error["message"]
    assert "secret" not in got.error["message"]
    assert ("retry-after" in got.headers) is (status in (429, 503))
    assert len(beast.asked) == 1
    assert await served.metric("cortex_request_errors_total", neuron="beast", model="tiny") == 1


@pytest.mark.parametrize(
    ("answers", "status", "about"),
    [
        (streams(b'data: {"error":{"message":"too odd","code":400}}\n\n', DONE), 400, "too odd"),
        (streams(b'data: {"error":{"message":"secret","code":500}}\n\n', DONE), 503, "could not answer"),
        (streams(chunk(finish="abort"), DONE), 503, "could not answer"),
        (streams(), 503, "ended in the middle"),
    ],
)
async def test_F13_an_error_as_the_first_event_is_a_plain_one(
    beast: ScriptedNeuron, served: Running, answers: Answers, status: int, about: str
) -> None:
    beast.answers = answers
    got = await served.chat(stream=True)
    assert got.status == status
    assert about in got.error["message"]
    assert "secret" not in got.error["message"]


@pytest.mark.parametrize(
    "answers",
    [
        streams(*HELLO[:3], end="cut"),
        streams(*HELLO[:3], end="clean"),
        streams(*HELLO[:3], b'data: {"error":{"message":"died","code":500}}\n\n', DONE),
        streams(*HELLO[:3], b'data: {"choices":[{"delta":{"content":"half', end="cut"),
        streams(*HELLO[:3], chunk(finish="error"), DONE),
    ],
)
async def test_F14_fixture_12_a_stream_that_breaks_never_ends_cleanly(
    beast: ScriptedNeuron, served: Running, answers: Answers
) -> None:
    beast.answers = answers
    got = await served.chat(stream=True)
    assert got.status == 200
    assert not got.whole
    whole, _, last = got.body.removesuffix(b"\n\n").rpartition(b"\n\n")
    assert b"".join(HELLO[:3]) == whole + b"\n\n"
    assert last.startswith(b'data: {"error":{"message":')
    assert b"[DONE]" not in got.body
    assert await served.metric("cortex_request_errors_total", code="upstream_failed") == 1


async def test_a_break_behind_the_terminal_event_is_none(beast: ScriptedNeuron, served: Running) -> None:
    beast.answers = streams(*HELLO, end="cut")
    got = await served.chat(stream=True)
    assert got.whole
    assert got.body.endswith(DONE)


# ---------------------------------------------------------------------------------------------- silence


@pytest.mark.parametrize(
    ("path", "body"),
    [(CHAT, {"messages": [{"role": "user", "content": "x"}]}), ("/v1/completions", {"prompt": "x"})],
    ids=["chat", "completions"],
)
async def test_K_04_gaps_are_bridged_once_the_head_is_out(
    beast: ScriptedNeuron, served: Running, monkeypatch: pytest.MonkeyPatch, path: str, body: dict[str, object]
) -> None:
    monkeypatch.setattr(silence, "KEEP_ALIVE_S", 0.05)
    go_on = asyncio.Event()
    beast.answers = streams(*HELLO, pause=go_on.wait)
    request = {"model": "tiny", "stream": True} | body
    async with served.client.request("POST", path, body=msgspec.json.encode(request)) as response:
        heard = b""
        while b'"finish_reason":null,"' not in heard.removeprefix(HELLO[0]) or b": keep-alive\n\n" not in heard:
            heard += await response.read_some()
        go_on.set()
        rest, whole = await drained(response)
    heard += rest
    assert whole
    events = heard.split(b"\n\n")
    assert events[:4] == [HELLO[0][:-2], b": keep-alive", b": keep-alive", b": keep-alive"]
    nothing = msgspec.json.decode(events[4].removeprefix(b"data: "))
    assert nothing["id"].endswith(beast.asked[0].headers["x-cortex-request-id"])
    assert nothing["choices"][0].get("delta", {}) == {}
    assert nothing["choices"][0].get("text", "") == ""
    assert heard.endswith(b"".join(event for event in HELLO[1:] if event != USAGE))


@pytest.mark.parametrize("silent_at", ["head", "body"])
async def test_K_03_a_long_prefill_commits_the_head_when_its_time_has_come(
    beast: ScriptedNeuron, silent_at: str
) -> None:
    go_on = asyncio.Event()
    beast.ready("tiny", profile=TINY)

    async def at_the_head(asked: Asked, send: Send) -> None:
        await go_on.wait()
        await says(b"", 500)(asked, send)

    async def in_the_body(_: Asked, send: Send) -> None:
        async with EventStream(send) as out:
            await out.start(200)
            await out.write(b": the engine is at work\n")
            await go_on.wait()

    beast.answers = at_the_head if silent_at == "head" else in_the_body
    async with gateway([beast], [TINY], hold_s=0.2) as running:
        await running.up("beast")
        body = b'{"model":"tiny","messages":[{"role":"user","content":"x"}],"stream":true}'
        async with running.client.request("POST", CHAT, body=body) as response:
            assert response.status == 200
            heard = await response.read_some()
            go_on.set()
            rest, whole = await drained(response)
    heard += rest
    assert not whole
    assert heard.startswith(b": keep-alive\n\ndata: ")
    assert b'"code":"upstream_failed"' in heard


# ---------------------------------------------------------------------------------------------- deciding again


async def test_a_refusal_that_was_not_executed_is_decided_again(beast: ScriptedNeuron, served: Running) -> None:
    beast.answers = in_turn(refuses("full", retry_in_s=0.05), says(ANSWER))
    assert (await served.chat()).status == 200
    assert len(beast.asked) == 2
    assert beast.asked[0].headers["x-cortex-request-id"] == beast.asked[1].headers["x-cortex-request-id"]
    assert await served.metric("cortex_retries_total", reason="full") == 1


async def test_a_replica_that_is_gone_is_loaded_again(beast: ScriptedNeuron, served: Running) -> None:
    beast.answers = in_turn(refuses("not_loaded"), says(ANSWER))
    got = await served.chat()
    assert (got.status, got.headers["x-cortex-model-state"]) == (200, "cold")
    assert len(beast.loads) == 1


async def test_what_may_have_been_executed_is_not_repeated(beast: ScriptedNeuron, served: Running) -> None:
    beast.answers = streams(end="cut")
    got = await served.chat()
    assert (got.status, got.error["code"]) == (503, "upstream_failed")
    assert len(beast.asked) == 1


async def test_F02_a_neuron_that_is_gone_leaves_the_work_to_its_neighbour(beast: ScriptedNeuron) -> None:
    async with ScriptedNeuron("benjy") as benjy, gateway([beast, benjy], [TINY], hold_not_streaming_s=10.0) as running:
        beast.ready("tiny", profile=TINY)
        benjy.answers = says(ANSWER)
        await running.up("beast", "benjy")
        beast.answers = says(ANSWER)
        assert (await running.chat()).headers["x-cortex-neuron"] == "beast"
        await beast.__aexit__(None, None, None)
        got = await running.chat()
        assert (got.status, got.headers["x-cortex-neuron"]) == (200, "benjy")

        async def down() -> bool:
            return await running.metric("cortex_neuron_up", neuron="beast") == 0

        await until_async(down)
        view = await running.fleet()
        assert [neuron.problem for neuron in view.neurons if not neuron.up] == ["connect failed: Connection refused"]
        health = await running.ask("GET", "/health")
        assert (health.status, health.json["status"]) == (200, "impaired")


async def test_F16_a_restarted_neuron_is_believed_from_anew(beast: ScriptedNeuron, served: Running) -> None:
    beast.answers = says(ANSWER)
    beast.restart()

    async def known() -> bool:
        return (await served.fleet()).neurons[0].instance_id == "beast-2"

    await until_async(known)
    got = await served.chat()
    assert (got.status, got.headers["x-cortex-model-state"]) == (200, "cold")
    assert beast.asked[-1].headers["x-cortex-instance"] == "beast-2"


@pytest.mark.parametrize(
    ("token", "api", "problem"), [("other", "1", "token"), ("secret", "2", "speaks version 2 of the contract")]
)
async def test_a_neuron_that_cannot_be_talked_to_says_why(
    beast: ScriptedNeuron, token: str, api: str, problem: str
) -> None:
    beast.token, beast.api = token, api
    async with gateway([beast], [TINY], token="secret") as running:

        async def told() -> bool:
            return problem in (await running.fleet()).neurons[0].problem

        await until_async(told)
        assert (await running.ask("GET", "/health")).status == 503


async def test_the_token_goes_to_the_neuron(beast: ScriptedNeuron) -> None:
    beast.token = "secret"
    beast.ready("tiny", profile=TINY)
    beast.answers = says(ANSWER)
    async with gateway([beast], [TINY], token="secret") as running:
        await running.up("beast")
        assert (await running.chat()).status == 200


async def test_rule_K_06_a_stream_may_be_silent_for_as_long_as_its_neuron_lives(
    beast: ScriptedNeuron, served: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No limit on an answer, nor on its gaps: ten keep-alives long nothing comes, and then it goes on."""
    monkeypatch.setattr(silence, "KEEP_ALIVE_S", 0.05)
    go_on = asyncio.Event()

    async def answers(_: Asked, send: Send) -> None:
        async with EventStream(send) as out:
            await out.start(200)
            await out.write(b"".join(HELLO[:2]))
            await go_on.wait()
            await out.end(b"".join(HELLO[2:]))

    beast.answers = answers
    body = msgspec.json.encode({"model": "tiny", "stream": True, "messages": [{"role": "user", "content": "Hi"}]})
    said = b""
    async with asyncio.timeout(20), served.client.request("POST", CHAT, body=body) as response:
        while said.count(b": keep-alive") < 10:
            said += await response.read_some()
        go_on.set()
        rest, whole = await drained(response)
    assert whole
    assert rest.endswith(DONE)


def test_rule_K_06_a_neuron_is_connected_to_within_a_second() -> None:
    assert inspect.signature(Client).parameters["connect_timeout_s"].default == 1.0

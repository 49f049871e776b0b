"""The gateway as its clients see it, against a neuron on the wire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
from msgspec import structs

from cortex_core.errors import CortexError
from cortex_core.fleet import Checkpoint, Profile
from cortex_core.http import EventStream, Send
from cortex_gateway import silence
from cortex_gateway.held import Held
from tests.support.gateway import CHAT, Running, drained, gateway
from tests.support.scripted import (
    DONE,
    HELLO,
    USAGE,
    Answers,
    Asked,
    Refused,
    ScriptedNeuron,
    chunk,
    in_turn,
    refuses,
    says,
    streams,
)
from tests.support.until import until_async

TINY, BIG = Profile(id="tiny", vram_mb=1000), Profile(id="big", vram_mb=4000)
ANSWER = {
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "I am tiny"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 5}},
}


@pytest.fixture
async def beast() -> AsyncIterator[ScriptedNeuron]:
    async with ScriptedNeuron("beast") as neuron:
        yield neuron


@pytest.fixture
async def served(beast: ScriptedNeuron) -> AsyncIterator[Running]:
    """A gateway with one neuron, on which `tiny` is ready."""
    beast.ready("tiny", profile=TINY)
    async with gateway([beast], [TINY, BIG], hold_s=5.0, hold_not_streaming_s=5.0) as running:
        await running.up("beast")
        yield running


async def test_a_whole_answer_passes_as_it_is(beast: ScriptedNeuron, served: Running) -> None:
    beast.answers = says(ANSWER)
    got = await served.chat()
    assert (got.status, got.json) == (200, ANSWER)
    assert got.headers["content-type"] == "application/json"
    assert got.headers["x-request-id"].startswith("req_")
    assert (got.headers["x-cortex-model-state"], got.headers["x-cortex-neuron"]) == ("warm", "beast")


async def test_the_neuron_is_told_what_it_judges_by(beast: ScriptedNeuron, served: Running) -> None:
    beast.answers = says(ANSWER)
    got = await served.ask("POST", CHAT, b'{"model":"tiny", "messages": [ ], "top_k":1.50}', {"x-request-id": "mine"})
    (asked,) = beast.asked
    assert asked.path == CHAT
    assert asked.body == b'{"model":"tiny","messages":[ ],"top_k":1.50}'
    assert asked.headers["x-cortex-request-id"] == got.headers["x-request-id"]
    assert asked.headers["x-cortex-instance"] == "beast-1"
    assert asked.headers["x-cortex-replica"] == "beast-r1"
    assert asked.headers["x-cortex-gateway"]
    assert asked.headers["accept-encoding"] == "identity"
    assert "x-request-id" not in asked.headers


async def test_a_stream_passes_without_the_usage_nobody_asked_for(beast: ScriptedNeuron, served: Running) -> None:
    beast.answers = streams(*HELLO)
    got = await served.chat(stream=True)
    assert got.status == 200
    assert got.body == b"".join(event for event in HELLO if event != USAGE)
    assert got.whole
    assert got.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert got.headers["cache-control"] == "no-cache"
    assert b'"stream_options":{"include_usage":true}' in beast.asked[0].body


async def test_a_stream_with_usage_asked_for(beast: ScriptedNeuron, served: Running) -> None:
    got = await served.chat(stream=True, stream_options={"include_usage": True})
    assert got.body == b"".join(HELLO)


async def test_completions_are_a_dialect_of_their_own(beast: ScriptedNeuron, served: Running) -> None:
    beast.answers = says({"choices": [{"text": "x", "finish_reason": "stop"}]})
    got = await served.ask("POST", "/v1/completions", {"model": "tiny", "prompt": "a"})
    assert (got.status, beast.asked[0].path) == (200, "/v1/completions")


@pytest.mark.parametrize("path", ["/chat/completions", "/v1/v1/chat/completions"])
async def test_rule_H_09_prefixes_that_users_set(served: Running, path: str) -> None:
    assert (await served.chat(path=path, stream=True)).status == 200


async def test_metrics_count_what_the_engine_said(beast: ScriptedNeuron, served: Running) -> None:
    beast.answers = in_turn(says(ANSWER), streams(*HELLO))
    await served.chat()
    await served.chat(stream=True)
    where = {"neuron": "beast", "model": "tiny"}
    assert await served.metric("cortex_requests_total", **where, dialect="openai-chat") == 2
    assert await served.metric("cortex_prompt_tokens_total", **where) == 9 + 7
    assert await served.metric("cortex_cached_prompt_tokens_total", **where) == 5
    assert await served.metric("cortex_completion_tokens_total", **where) == 4 + 3
    assert await served.metric("cortex_time_to_first_token_seconds_count", **where) == 1
    assert await served.metric("cortex_tokens_per_second_count", **where) == 1
    assert await served.metric("cortex_request_duration_seconds_count", **where) == 2
    assert await served.metric("cortex_request_errors_total") == 0
    assert await served.metric("cortex_neuron_up", neuron="beast") == 1
    assert await served.metric("cortex_model_state", **where, state="ready") == 1
    assert await served.metric("cortex_device_memory_bytes", neuron="beast", device="cpu:0") == 4096 * 2**20
    assert await served.metric("cortex_build_info") == 1


# ---------------------------------------------------------------------------------------------- bad requests


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code", "param"),
    [
        ("POST", CHAT, b'{"model":', 400, None, None),
        ("POST", CHAT, b'{"model":"tiny"}', 400, None, "messages"),
        ("POST", CHAT, b'{"model":"nope","messages":[]}', 404, "model_not_found", "model"),
        ("POST", "/v1/completions", b'{"model":"tiny","prompt":"x","stream":3}', 400, None, "stream"),
        ("GET", CHAT, b"", 405, "method_not_allowed", None),
        ("POST", "/v1/models", b"", 405, "method_not_allowed", None),
        ("GET", "/v1/models/nope", b"", 404, "model_not_found", "model"),
        ("GET", "/v1/nothing", b"", 404, "not_found", None),
        ("DELETE", "/", b"", 405, "method_not_allowed", None),
    ],
)
async def test_errors_wear_the_openai_envelope(
    served: Running, method: str, path: str, body: bytes, status: int, code: str | None, param: str | None
) -> None:
    got = await served.ask(method, path, body)
    assert got.status == status
    assert (got.error["code"], got.error["param"]) == (code, param)
    assert got.error["message"]
    assert got.headers["x-request-id"].startswith("req_")
    assert ("allow" in got.headers) is (status == 405)


async def test_a_body_over_the_limit(beast: ScriptedNeuron) -> None:
    async with gateway([beast], [TINY], max_body_mb=1) as running:
        got = await running.ask("POST", CHAT, b"x" * (2 << 20))
    assert (got.status, got.error["code"]) == (413, "request_too_large")


async def test_what_is_held_for_requests_is_bounded(beast: ScriptedNeuron) -> None:
    async with gateway([beast], [TINY], max_held_mb=1, max_body_mb=4) as running:
        got = await running.ask("POST", CHAT, b" " * (2 << 20))
        assert (got.status, got.error["code"]) == (503, "no_capacity")
        assert int(got.headers["retry-after"]) >= 1
        got = await running.ask("POST", CHAT, b"{}")
        assert got.status == 400


def test_a_charge_grows_and_is_given_back_once() -> None:
    held = Held(100)
    declared, undeclared = held.charge(60), held.charge(10)
    with pytest.raises(CortexError):
        undeclared.grow_to(41)
    undeclared.grow_to(40)
    with pytest.raises(CortexError):
        held.charge(1)
    undeclared.grow_to(1)
    assert held.held_bytes == 100
    for _ in range(2):
        undeclared()
    assert held.held_bytes == 60
    declared()
    assert held.held_bytes == 0


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
        (says(b"", 501), 501, "not_supported", "not offer"),
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
async def test_F14_a_stream_that_breaks_never_ends_cleanly(
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


# ---------------------------------------------------------------------------------------------- who leaves, who waits


@pytest.mark.parametrize("stream", [True, False])
async def test_F20_a_client_that_leaves_takes_its_request_along(
    beast: ScriptedNeuron, served: Running, stream: bool
) -> None:
    forever = asyncio.Event()
    beast.answers = streams(*HELLO[:2], pause=forever.wait) if stream else streams(b"{", b"}", pause=forever.wait)
    async with asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(served.chat(stream=stream))
        await until_async(lambda: beast.running == 1)
        asking.cancel()
    await until_async(lambda: beast.running == 0, timeout_s=1.0)
    assert await served.metric("cortex_client_disconnects_total", neuron="beast", model="tiny") == 1
    assert await served.metric("cortex_request_errors_total") == 0
    beast.answers = says(ANSWER)
    assert (await served.chat()).status == 200


async def test_F27_a_cold_model_is_loaded_once_however_many_ask(beast: ScriptedNeuron) -> None:
    loaded = asyncio.Event()

    async def load(_: object) -> None:
        await loaded.wait()

    beast.load, beast.answers = load, says(ANSWER)
    async with gateway([beast], [TINY]) as running:
        await running.up("beast")
        async with asyncio.TaskGroup() as tasks:
            asking = [tasks.create_task(running.chat()) for _ in range(20)]

            async def waiting() -> bool:
                return await running.metric("cortex_waiters", model="tiny") == 20

            await until_async(waiting)
            loaded.set()
        got = [task.result() for task in asking]
        assert [one.status for one in got] == [200] * 20
        assert got[0].headers["x-cortex-model-state"] == "cold"
        assert len(beast.loads) == 1
        assert await running.metric("cortex_cold_starts_total", neuron="beast", model="tiny") == 1


async def test_the_idle_replica_that_is_in_the_way_is_let_go(beast: ScriptedNeuron, served: Running) -> None:
    beast.answers = says(ANSWER)
    got = await served.chat("big")
    assert (got.status, got.headers["x-cortex-model-state"]) == (200, "cold")
    assert [victim.replica for victim in beast.loads[0].evict] == ["beast-r1"]
    assert await served.metric("cortex_evictions_total", neuron="beast", model="tiny") == 1


async def test_a_model_that_can_never_fit(beast: ScriptedNeuron) -> None:
    huge = Profile(id="huge", vram_mb=50_000)
    async with gateway([beast], [huge], hold_not_streaming_s=5.0) as running:
        await running.up("beast")
        got = await running.chat("huge")
    assert (got.status, got.error["code"]) == (400, "model_cannot_fit")
    assert "50000" in got.error["message"]
    assert beast.loads == []


async def test_K_01_a_load_that_takes_too_long_goes_on(beast: ScriptedNeuron) -> None:
    never = asyncio.Event()

    async def load(_: object) -> None:
        await never.wait()

    beast.load = load
    async with gateway([beast], [TINY], hold_s=0.3) as running:
        await running.up("beast")
        got = await running.chat(stream=True)
        assert (got.status, got.error["code"]) == (503, "model_loading")
        assert 1 <= int(got.headers["retry-after"]) <= 30
        assert len(beast.loads) == 1


async def test_a_failed_load_is_told(beast: ScriptedNeuron) -> None:
    async def load(_: object) -> None:
        raise Refused("model_cannot_fit", need_mb=9000, free_mb=10, message="needs 9000 MB")

    beast.load = load
    async with gateway([beast], [TINY], hold_s=5.0) as running:
        await running.up("beast")
        got = await running.chat(stream=True)
    assert (got.status, got.error["code"]) == (400, "model_cannot_fit")
    assert got.error["details"]["need_mb"] == 9000


# ---------------------------------------------------------------------------------------------- silence


@pytest.mark.parametrize(
    ("path", "body"), [(CHAT, {"messages": []}), ("/v1/completions", {"prompt": "x"})], ids=["chat", "completions"]
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
        body = b'{"model":"tiny","messages":[],"stream":true}'
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


# ---------------------------------------------------------------------------------------------- what it says of itself


async def test_the_list_of_models(beast: ScriptedNeuron, served: Running) -> None:
    got = await served.ask("GET", "/v1/models")
    tiny, big = got.json["data"]
    assert got.json["object"] == "list"
    assert (tiny["id"], tiny["object"], tiny["loaded"], tiny["feasible_on"]) == ("tiny", "model", True, ["beast"])
    assert [(one["neuron"], one["state"], one["vram_mb"]) for one in tiny["locations"]] == [("beast", "ready", 1000)]
    assert (big["id"], big["loaded"], big["feasible_on"], big["locations"]) == ("big", False, ["beast"], [])
    assert (await served.ask("GET", "/v1/models/tiny")).json == tiny


async def test_without_a_catalogue_what_the_neurons_have_is_served(beast: ScriptedNeuron) -> None:
    beast.answers = says(ANSWER)
    beast.checkpoints = (Checkpoint(name="found", need_mb=100),)
    async with gateway([beast], []) as running:
        await running.up("beast")
        assert [model["id"] for model in (await running.ask("GET", "/v1/models")).json["data"]] == ["found"]
        assert (await running.chat("found")).status == 200


async def test_rule_H_11_ids_with_a_slash(beast: ScriptedNeuron) -> None:
    async with gateway([beast], [Profile(id="Qwen/Qwen3-8B", vram_mb=10)]) as running:
        await running.up("beast")
        for path in ("/v1/models/Qwen%2FQwen3-8B", "/v1/models/Qwen/Qwen3-8B"):
            assert (await running.ask("GET", path)).json["id"] == "Qwen/Qwen3-8B"


async def test_the_whole_picture(beast: ScriptedNeuron, served: Running) -> None:
    replica = next(iter(beast.replicas.values()))
    beast.tell(structs.replace(replica, in_flight=3, version=2))

    async def seen() -> bool:
        return (await served.fleet()).neurons[0].replicas[0].in_flight == 3

    await until_async(seen)
    view = await served.fleet()
    (neuron,) = view.neurons
    (device,) = neuron.devices
    assert (neuron.name, neuron.up, neuron.simulated, neuron.endpoint) == ("beast", True, True, beast.endpoint)
    assert (device.memory_mb, device.held_mb, device.free_mb) == (4096, 1000, 3096)
    assert [model.id for model in view.models] == ["tiny", "big"]
    assert view.waiting == {}


@pytest.mark.parametrize(("method", "path"), [("GET", "/"), ("HEAD", "/"), ("GET", "/health"), ("HEAD", "/health")])
async def test_rule_H_10_probes_are_answered(served: Running, method: str, path: str) -> None:
    host, _, port = served.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"{method} {path} HTTP/1.1\r\nhost: {served.address}\r\nconnection: close\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert head.startswith(b"HTTP/1.1 200 ")
    assert bool(body) is (method == "GET")

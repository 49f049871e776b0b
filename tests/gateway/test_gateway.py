"""The gateway as its clients see it, against a neuron on the wire."""

from __future__ import annotations

import asyncio

import pytest
from msgspec import structs

from cortex_core.errors import CortexError
from cortex_core.fleet import Checkpoint, Profile
from cortex_gateway.relay.held import Held
from tests.support.gateway import CHAT, TINY, Running, gateway
from tests.support.scripted import (
    ANSWER,
    HELLO,
    USAGE,
    Refused,
    ScriptedNeuron,
    in_turn,
    says,
    streams,
)
from tests.support.until import until_async


async def test_a_whole_answer_passes_as_it_is(beast: ScriptedNeuron, served: Running) -> None:
    beast.answers = says(ANSWER)
    got = await served.chat()
    assert (got.status, got.json) == (200, ANSWER)
    assert got.headers["content-type"] == "application/json"
    assert got.headers["x-request-id"].startswith("req_")
    assert (got.headers["x-cortex-model-state"], got.headers["x-cortex-neuron"]) == ("warm", "beast")


async def test_the_neuron_is_told_what_it_judges_by(beast: ScriptedNeuron, served: Running) -> None:
    beast.answers = says(ANSWER)
    body = b'{"model":"tiny", "messages": [ {"role":"user","content":"x"}], "top_k":1.50}'
    got = await served.ask("POST", CHAT, body, {"x-request-id": "mine"})
    (asked,) = beast.asked
    assert asked.path == CHAT
    assert asked.body == b'{"model":"tiny","messages":[ {"role":"user","content":"x"}],"top_k":1.50}'
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
async def test_rule_H_10_fixture_44_probes_are_answered(served: Running, method: str, path: str) -> None:
    host, _, port = served.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"{method} {path} HTTP/1.1\r\nhost: {served.address}\r\nconnection: close\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert head.startswith(b"HTTP/1.1 200 ")
    assert bool(body) is (method == "GET")

"""Engines that die and engines that hang, and what the neuron says of itself meanwhile."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cortex_core.http import Client
from cortex_core.neuron_api import Health
from cortex_core.notify import Notifier
from tests.neuron.contract.conftest import REPLICA_MB, SIM_MODELS, running, sim_config
from tests.neuron.contract.subject import Subject, rest_of
from tests.support.until import until_async

STALL_S = 1.0


@asynccontextmanager
async def neuron(folder: Path, **engine: Any) -> AsyncIterator[Subject]:
    config = sim_config(folder)
    sim = msgspec.structs.replace(config.engine.sim, **engine.pop("sim", {}))
    config = msgspec.structs.replace(config, engine=msgspec.structs.replace(config.engine, sim=sim, **engine))
    async with running(config) as one:
        client = Client(f"http://{one.address}", connect_timeout_s=10)
        yield Subject(client, SIM_MODELS, REPLICA_MB)
        await client.close()


async def ask(subject: Subject, replica: Any, words: str, *, stream: bool) -> tuple[int, bytes, bool]:
    """Status, body, and whether it came to a clean end."""
    body = subject.chat(replica.model, 50, stream=stream) | {"messages": [{"role": "user", "content": words}]}
    headers = [(name.encode(), value.encode()) for name, value in subject.head(replica).items()]
    async with subject.client.request(
        "POST", "/v1/chat/completions", headers=headers, body=msgspec.json.encode(body), timeout_s=30
    ) as response:
        rest, clean = await rest_of(response)
        return response.status, rest, clean


async def test_goal_R27_a_stream_whose_engine_dies_never_ends_cleanly_and_the_model_comes_back(
    short_path: Path,
) -> None:
    async with neuron(short_path) as subject:
        first = await subject.load(SIM_MODELS[0])
        sibling = await subject.load(SIM_MODELS[1])
        async with subject.streaming(sibling, tokens=100) as other:
            status, body, clean = await ask(subject, first, "!die", stream=True)
            assert (status, clean) == (200, False)
            assert b"[DONE]" not in body
            again = await subject.until_state(SIM_MODELS[0], "ready")
            assert again.id == first.id
            assert again.version > first.version
            assert (await subject.ask(again)).status == 200
            _, clean = await rest_of(other)
            assert clean


async def test_a_request_whose_engine_dies_before_it_answers_is_told_so(short_path: Path) -> None:
    async with neuron(short_path) as subject:
        replica = await subject.load(SIM_MODELS[0])
        status, body, clean = await ask(subject, replica, "!die", stream=False)
        error = msgspec.json.decode(body)["error"]
        assert (status, error["code"], error["executed"], clean) == (502, "engine_died", "unknown", True)
        assert error["retry"] == "elsewhere"


async def test_goal_R28_an_engine_that_hangs_is_found_ended_and_started_again(short_path: Path) -> None:
    async with neuron(short_path, stall_s=STALL_S) as subject:
        replica = await subject.load(SIM_MODELS[0])
        sibling = await subject.load(SIM_MODELS[1])
        began = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as group:
            streamed = group.create_task(ask(subject, replica, "!hang", stream=True))
            waiting = group.create_task(ask(subject, replica, "hello", stream=False))
            assert (await subject.ask(sibling)).status == 200
        told_s = asyncio.get_running_loop().time() - began
        assert streamed.result()[2] is False
        assert waiting.result()[0] == 502
        assert STALL_S <= told_s < STALL_S + 4  # a tick, and room for a busy machine
        again = await subject.until_state(SIM_MODELS[0], "ready", version=replica.version + 1)
        assert (await subject.ask(again)).status == 200


async def test_an_engine_that_goes_on_without_its_requests_is_not_started_again(short_path: Path) -> None:
    async with neuron(short_path, stall_s=STALL_S) as subject:
        replica = await subject.load(SIM_MODELS[0])
        async with asyncio.TaskGroup() as group:
            stalls = group.create_task(ask(subject, replica, "!stall", stream=True))
            waits = group.create_task(ask(subject, replica, "hello", stream=False))
        assert stalls.result()[2] is False
        assert waits.result()[0] == 502
        assert b"it hangs: no token for" in waits.result()[1]

        async def again() -> bool:
            return (await subject.ask(replica)).status == 200

        await until_async(again, timeout_s=3)
        found = await subject.replica(SIM_MODELS[0])
        assert found is not None
        assert found.version == replica.version
        await ask(subject, replica, "!stall", stream=True)
        restarted = await subject.until_state(SIM_MODELS[0], "ready", version=replica.version + 1)
        assert restarted.id == replica.id  # once is no cure


async def test_a_slow_engine_is_not_taken_for_hung(short_path: Path) -> None:
    """Nothing is streamed for longer than the limit, yet the engine's own counters move."""
    async with neuron(short_path, stall_s=STALL_S, sim={"tokens_per_s": 8.0}) as subject:
        replica = await subject.load(SIM_MODELS[0])
        answer = await subject.ask(replica, tokens=24)
        assert answer.status == 200
        found = await subject.replica(SIM_MODELS[0])
        assert found is not None
        assert found.version == replica.version


async def test_goal_R32_health_tells_what_is_wrong(short_path: Path) -> None:
    async with neuron(short_path, stall_s=60.0, sim={"fail_at": "weights"}) as subject:
        health = await subject.get("/health", Health)
        assert (health.status, health.problems) == ("ok", ())
        answer = await subject.try_load(SIM_MODELS[0])
        assert (answer.status, answer.refusal.code) == (503, "load_failed")
        assert answer.refusal.failure is not None
        assert answer.refusal.failure.retry_in_s == 5.0
        [failure] = (await subject.report()).failures
        assert (failure.model, failure.count, failure.scope) == (SIM_MODELS[0], 1, "model")
        await subject.command("/cordon", reason="a new fan")
        health = await subject.get("/health", Health)
        assert health.status == "impaired"
        assert health.problems == (
            f"{SIM_MODELS[0]}: weights: [engine.sim] fail_at = 'weights'",
            "cordoned: a new fan",
        )


async def test_goal_R32_a_stuck_replica_is_not_shown_as_well(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neuron.supervisor.reports.SLOW_S", 0.2)
    async with neuron(short_path, stall_s=60.0) as subject:
        replica = await subject.load(SIM_MODELS[0])
        async with asyncio.TaskGroup() as group:
            stuck = group.create_task(ask(subject, replica, "!hang", stream=True))

            async def seen() -> bool:
                [shown] = (await subject.get("/health", Health)).replicas
                return not shown.ok and "no token" in shown.reason

            await until_async(seen, timeout_s=3)
            assert (await subject.get("/health", Health)).status == "impaired"
            stuck.cancel()


async def test_a_reader_of_a_broken_stream_gets_what_came_before(short_path: Path) -> None:
    async with neuron(short_path) as subject:
        replica = await subject.load(SIM_MODELS[0])
        _, body, clean = await ask(subject, replica, "!die", stream=True)
        assert not clean
        assert SIM_MODELS[0].encode() in body


async def test_systemd_is_told(short_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(short_path / "notify"))
        systemd.settimeout(5)
        notifier = Notifier(str(short_path / "notify"))
        notifier.ready()
        notifier.alive("m ready")
        notifier.alive("m ready")
        notifier.stopping()
        told = [systemd.recv(1000) for _ in range(4)]
    assert told == [b"READY=1", b"WATCHDOG=1\nSTATUS=m ready", b"WATCHDOG=1", b"STOPPING=1"]
    notifier.alive("nobody listens any more")
    Notifier("").ready()

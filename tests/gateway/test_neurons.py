"""Following neurons: what makes one known, keeps it known, and loses it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from msgspec import structs

from cortex_core import neuron_api
from cortex_core.config.cortex import NeuronEntry
from cortex_core.fleet import Checkpoint, Profile, State
from cortex_core.http import BrokenResponse
from cortex_core.neuron_api import DemandRequest, LoadRequest, UnloadRequest
from cortex_gateway.dispatch.commands import Refused, Unreachable
from cortex_gateway.neurons import Neurons, follow
from cortex_gateway.policy.transitions import Beat, Discovered, Event, Lost, ReplicaChanged, Reported
from tests.support import scripted
from tests.support.faults import FaultyWire
from tests.support.scripted import ScriptedNeuron
from tests.support.until import until_async


class Heard(list[Event]):
    """Everything that was observed."""

    def of(self, kind: type[Event]) -> list[Event]:
        return [event for event in self if isinstance(event, kind)]


@asynccontextmanager
async def following(*neurons: ScriptedNeuron | NeuronEntry, token: str = "") -> AsyncIterator[tuple[Neurons, Heard]]:
    heard = Heard()
    entries = [NeuronEntry(name=neuron.name, endpoint=neuron.endpoint) for neuron in neurons]
    async with Neurons(entries, gateway="g1", token=token) as followed, asyncio.TaskGroup() as tasks:
        task = tasks.create_task(followed.run(heard.append))
        yield followed, heard
        task.cancel()


@pytest.fixture
async def beast() -> AsyncIterator[ScriptedNeuron]:
    async with ScriptedNeuron("beast") as neuron:
        yield neuron


async def test_a_watch_begins_with_a_snapshot_and_goes_on_with_changes(beast: ScriptedNeuron) -> None:
    beast.checkpoints = (Checkpoint(name="tiny"),)
    async with following(beast) as (_, heard):
        await until_async(lambda: heard.of(Discovered))
        replica = beast.ready("tiny")
        await until_async(lambda: heard.of(ReplicaChanged))
        await until_async(lambda: heard.of(Beat))
    assert isinstance(heard[0], Reported)
    assert heard[0].report == structs.replace(beast.report(), seq=0, replicas=())
    change = heard.of(ReplicaChanged)[0]
    assert isinstance(change, ReplicaChanged)
    assert (change.instance_id, change.event.replica) == ("beast-1", replica)
    found = heard.of(Discovered)[0]
    assert isinstance(found, Discovered)
    assert found.discovery.checkpoints == beast.checkpoints


async def test_F16_another_instance_is_discovered_again(beast: ScriptedNeuron) -> None:
    async with following(beast) as (_, heard):
        await until_async(lambda: heard.of(Discovered))
        beast.restart()
        await until_async(lambda: len(heard.of(Discovered)) == 2)
    assert not heard.of(Lost)


async def test_the_poll_heals_what_the_watch_did_not_say(
    beast: ScriptedNeuron, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "POLL_S", 0.05)
    async with following(beast) as (_, heard):
        await until_async(lambda: heard.of(Reported))
        beast.seq = 5  # it says nothing of it
        await until_async(lambda: any(isinstance(event, Reported) and event.report.seq == 5 for event in heard))


async def test_a_slow_neuron_delays_none(beast: ScriptedNeuron) -> None:
    async with ScriptedNeuron("benjy") as benjy:
        beast.stuck = True
        async with following(beast, benjy) as (_, heard):
            await until_async(lambda: heard.of(Reported), timeout_s=2.0)
    assert {event.neuron for event in heard if isinstance(event, Reported)} == {"benjy"}


async def test_one_that_was_never_reached_says_why(beast: ScriptedNeuron) -> None:
    await beast.__aexit__(None, None, None)
    async with following(beast) as (_, heard):
        await until_async(lambda: heard.of(Lost))
    assert heard[0] == Lost("beast", "connect failed: Connection refused")


async def test_F01_a_daemon_that_is_gone_is_lost_at_once_and_found_again(beast: ScriptedNeuron) -> None:
    async with following(beast) as (_, heard):
        await until_async(lambda: heard.of(Beat))
        await beast.__aexit__(None, None, None)
        await until_async(lambda: heard.of(Lost), timeout_s=2.0)
        async with beast:
            await until_async(lambda: isinstance(heard[-1], Reported))


async def test_F08_a_silent_one_is_lost_when_nothing_answers(
    beast: ScriptedNeuron, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neuron_api, "SILENCE_S", 0.3)
    monkeypatch.setattr("cortex_gateway.neurons.client.ANSWER_S", 0.3)
    async with following(beast) as (_, heard):
        await until_async(lambda: heard.of(Reported))
        beast.beats, beast.stuck = False, True
        await until_async(lambda: heard.of(Lost))
        beast.beats, beast.stuck = True, False
        await until_async(lambda: isinstance(heard[-1], Reported))


async def test_F15_silence_alone_loses_nobody(beast: ScriptedNeuron, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neuron_api, "SILENCE_S", 0.1)
    async with following(beast) as (_, heard):
        await until_async(lambda: heard.of(Reported))
        beast.beats = False
        await until_async(lambda: len(heard.of(Reported)) >= 4)  # each broken watch connects again, and is answered
    assert not heard.of(Lost)


async def test_F08_connections_that_died_without_a_word_lose_nobody_and_hold_nobody_up(
    beast: ScriptedNeuron, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a partition: kept connections take what is written to them and never answer. A new one tells."""
    monkeypatch.setattr(neuron_api, "SILENCE_S", 0.3)
    monkeypatch.setattr("cortex_gateway.neurons.client.ANSWER_S", 1e9)
    async with FaultyWire(beast.endpoint.removeprefix("http://")) as wire:
        beast_behind = NeuronEntry(name="beast", endpoint=f"http://{wire.address}")
        async with following(beast_behind) as (neurons, heard):
            await until_async(lambda: heard.of(Discovered))
            await neurons.demand("beast", DemandRequest(gateway="g1", models={}))
            wire.hush()
            await until_async(lambda: len(heard.of(Reported)) == 2)
        assert not heard.of(Lost)


async def test_a_lost_neurons_streams_end_with_an_error(beast: ScriptedNeuron, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neuron_api, "SILENCE_S", 0.3)
    monkeypatch.setattr("cortex_gateway.neurons.client.ANSWER_S", 0.3)
    beast.answers = scripted.streams(*scripted.HELLO[:2], pause=asyncio.Event().wait)
    async with following(beast) as (neurons, heard):
        await until_async(lambda: heard.of(Reported))
        async with neurons.byte_path("beast").request("POST", "/v1/chat/completions", body=b"{}") as response:
            assert await response.read_some() == scripted.HELLO[0]
            beast.beats, beast.stuck = False, True
            with pytest.raises(BrokenResponse):
                await response.read_some()
        assert heard.of(Lost)
        beast.stuck = False
        async with neurons.byte_path("beast").request("POST", "/v1/chat/completions", body=b"{}") as response:
            assert response.status == 200


# ---------------------------------------------------------------------------------------------- commands


async def test_a_load_returns_when_the_model_serves(beast: ScriptedNeuron) -> None:
    async with following(beast) as (neurons, heard):
        await until_async(lambda: heard.of(Reported))
        request = LoadRequest(operation_id="op-1", instance_id="beast-1", model="tiny", profile=Profile(id="tiny"))
        operation = await neurons.load("beast", request)
        assert operation.replica is not None
        assert (operation.id, operation.replica.state) == ("op-1", State.READY)
        assert beast.loads == [request]
        await neurons.unload("beast", UnloadRequest(replica=operation.replica.id))
        assert beast.replicas == {}
        await neurons.demand("beast", DemandRequest(gateway="g1", models={}))


async def test_a_refused_command_brings_the_reason(beast: ScriptedNeuron) -> None:
    async with following(beast) as (neurons, heard):
        await until_async(lambda: heard.of(Reported))
        with pytest.raises(Refused) as caught:
            await neurons.load("beast", LoadRequest(instance_id="another", model="tiny"))
    assert (caught.value.status, caught.value.refusal.code) == (409, "outrun")


async def test_a_command_ends_with_its_neuron(beast: ScriptedNeuron, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neuron_api, "SILENCE_S", 0.3)
    monkeypatch.setattr("cortex_gateway.neurons.client.ANSWER_S", 0.3)

    async def load(_: LoadRequest) -> None:
        beast.beats, beast.stuck = False, True
        await asyncio.Event().wait()

    beast.load = load
    async with following(beast) as (neurons, heard):
        await until_async(lambda: heard.of(Reported))
        with pytest.raises(Unreachable, match="lost"):
            await neurons.load("beast", LoadRequest(instance_id="beast-1", model="tiny"))

"""Replicas that sleep: what they keep, who wakes them, and that sleeping takes the place of leaving where it can."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from cortex_core.fleet import Profile, Share, State
from cortex_core.neuron_api import LoadRequest, PinRequest, SleepRequest, UnloadRequest, Victim
from neuron.engines.base import SLEEP_OPTION, Ended
from neuron.supervisor.refusals import Refused
from neuron.supervisor.resident import Resident
from tests.neuron.fleet_of_one import World, in_virtual_time

KEEPS_MB = 1  # of a simulated engine that sleeps


def load(model: str, vram_mb: int, *evict: Victim, sleeps: bool = True, **more: Any) -> LoadRequest:
    profile = Profile(id=model, vram_mb=vram_mb, engine={SLEEP_OPTION: sleeps})
    return LoadRequest(model=model, profile=profile, evict=evict, **more)


async def loaded(world: World, model: str, vram_mb: int, *evict: Victim, **more: Any) -> Resident:
    running = world.supervisor.load(load(model, vram_mb, *evict, **more))
    await running.wait()
    assert running.error is None, running.error
    return world.replicas.of(model)[0]


async def asleep(world: World, resident: Resident, level: int = 1) -> None:
    running = world.supervisor.sleep(SleepRequest(replica=resident.id, version=resident.version, level=level))
    await running.wait()
    assert running.error is None, running.error
    assert resident.state is State.SLEEPING


def victim(resident: Resident, mode: Any = "idle", drain_s: float = 0.0) -> Victim:
    return Victim(replica=resident.id, version=resident.version, mode=mode, drain_s=drain_s)


def refused(world: World, ask: Any) -> str:
    with pytest.raises(Refused) as caught:
        ask()
    return caught.value.refusal.code


@pytest.mark.parametrize("level", [1, 2])
def test_who_sleeps_gives_its_memory_back_and_takes_it_again_to_wake(tmp_path: Path, level: int) -> None:
    async def scene(world: World) -> None:
        sleeper = await loaded(world, "a", 900)
        device = sleeper.devices[0]
        before = world.replicas.free_mb()
        await asleep(world, sleeper, level)
        assert world.replicas.free_mb()[device] == before[device] + 900 - KEEPS_MB
        assert (world.replicas.view(sleeper).tier, sleeper.gate.in_flight) == ("asleep", 0)
        with pytest.raises(Refused, match="a sleeps"):
            await sleeper.gate.enter("g", 1.0)
        running = world.supervisor.wake(SleepRequest(replica=sleeper.id))
        assert world.replicas.free_mb() == before  # at once: nobody else may have it
        with pytest.raises(Refused, match="a wakes"):
            await sleeper.gate.enter("g", 1.0)
        await running.wait()
        await sleeper.gate.enter("g", 1.0)
        sleeper.gate.leave()
        [known] = world.learned.all_known()
        assert known.wake_s == pytest.approx(0.2, abs=0.01)

    in_virtual_time(tmp_path, scene, turn_guard_s=0.0)


def test_a_victim_that_can_sleep_sleeps_and_a_load_wakes_it(tmp_path: Path) -> None:
    """The way of two models that alternate: nothing is loaded twice."""

    async def scene(world: World) -> None:
        first = await loaded(world, "a", 900, placement=(Share("cuda:1", 900),))
        second = await loaded(world, "b", 900, victim(first), placement=(Share("cuda:1", 900),))
        assert (first.state, second.state) == (State.SLEEPING, State.READY)
        again = await loaded(world, "a", 900, victim(second))
        assert again is first
        assert (first.state, second.state) == (State.READY, State.SLEEPING)
        assert world.owners.loads == 2

    in_virtual_time(tmp_path, scene, turn_guard_s=0.0)


def test_a_victim_that_cannot_sleep_or_has_no_room_to_leaves(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        there = (Share("cuda:0", 1000),)
        full = await loaded(world, "a", 1000, placement=there)
        awake = await loaded(world, "b", 1000, victim(full), placement=there, sleeps=False)  # not a megabyte is left
        assert full.state is State.ABSENT
        await loaded(world, "c", 500, victim(awake), placement=(Share("cuda:0", 500),))
        assert awake.state is State.ABSENT

    in_virtual_time(tmp_path, scene, turn_guard_s=0.0)


def test_who_cannot_sleep_although_it_should_is_ended_or_started_again(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        first = await loaded(world, "a", 900, placement=(Share("cuda:1", 900),))
        world.owners.engines[-1].insomnia = True
        second = await loaded(world, "b", 900, victim(first), placement=(Share("cuda:1", 900),))
        assert first.state is State.ABSENT
        world.owners.engines[-1].insomnia = True
        running = world.supervisor.sleep(SleepRequest(replica=second.id))
        await running.wait()
        assert running.error is not None
        assert running.error.code == "engine_died"
        while second.state is not State.READY:
            await second.changed.wait()
        assert second.starts == 2

    in_virtual_time(tmp_path, scene, turn_guard_s=0.0)


def test_a_wake_that_finds_no_memory_is_refused_with_the_numbers(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        sleeper = await loaded(world, "a", 900, placement=(Share("cuda:0", 900),))
        await asleep(world, sleeper)
        other = await loaded(world, "b", 900, placement=(Share("cuda:0", 900),))
        with pytest.raises(Refused) as caught:
            world.supervisor.wake(SleepRequest(replica=sleeper.id))
        refusal = caught.value.refusal
        assert (refusal.code, refusal.need_mb, refusal.free_mb) == ("insufficient_memory", 900, 100)
        await other.gate.enter("g", 1.0)
        running = world.supervisor.load(load("a", 900, victim(other, "drain", 2.0)))
        assert sleeper.state is State.WAKING
        await running.wait()
        assert running.error is not None
        assert running.error.code == "drain_timeout"
        assert (sleeper.state, other.state) == (State.SLEEPING, State.READY)
        other.gate.leave()

    in_virtual_time(tmp_path, scene, turn_guard_s=0.0)


def test_what_may_not_be_put_to_sleep(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        supervisor = world.supervisor
        never = await loaded(world, "a", 300, sleeps=False)
        assert refused(world, lambda: supervisor.sleep(SleepRequest(replica=never.id))) == "unsupported"
        assert refused(world, lambda: supervisor.sleep(SleepRequest(replica="x"))) == "not_found"
        other = await loaded(world, "b", 300)
        ask = SleepRequest(replica=other.id, version=other.version + 1)
        assert refused(world, lambda: supervisor.sleep(ask)) == "outrun"
        await other.gate.enter("g", 1.0)
        assert refused(world, lambda: supervisor.sleep(SleepRequest(replica=other.id))) == "busy"
        other.gate.leave()
        world.standing.pin(PinRequest(model="b"))
        assert refused(world, lambda: supervisor.sleep(SleepRequest(replica=other.id))) == "busy"

    in_virtual_time(tmp_path, scene)


def test_a_sleeper_that_dies_is_gone_and_one_that_is_unloaded_too(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        for end in ("die", "unload", "unload on its way"):
            sleeper = await loaded(world, "a", 900)
            if end == "unload on its way":
                world.supervisor.sleep(SleepRequest(replica=sleeper.id))
            else:
                await asleep(world, sleeper)
            if end == "die":
                world.owners.engines[-1].end(Ended(clean=False, reason="killed"))
            else:
                world.supervisor.unload(UnloadRequest(replica=sleeper.id))
            async with asyncio.timeout(5):
                while sleeper.state is not State.ABSENT:
                    await sleeper.changed.wait()
            assert world.replicas.free_mb() == {"cuda:0": 1000, "cuda:1": 1500}

    in_virtual_time(tmp_path, scene)


def test_what_is_pinned_does_not_stay_asleep(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        sleeper = await loaded(world, "a", 300)
        await asleep(world, sleeper)
        world.standing.pin(PinRequest(model="a"))
        world.standing.keep_loaded()
        async with asyncio.timeout(5):
            while sleeper.state is not State.READY:
                await sleeper.changed.wait()

    in_virtual_time(tmp_path, scene)

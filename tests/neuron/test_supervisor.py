"""The supervisor in virtual time: memory is never promised twice, every operation ends, and nothing is left."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cortex_core.fleet import Demand, Profile, Share, State
from cortex_core.neuron_api import (
    CordonRequest,
    DemandRequest,
    LoadRequest,
    PinRequest,
    SleepRequest,
    UnloadRequest,
    Victim,
)
from neuron.engines.base import SLEEP_OPTION, Ended
from neuron.supervisor.engine_keeper import REVIVE_S, STRIKES_MOST
from neuron.supervisor.operations import Running
from neuron.supervisor.refusals import Refused
from neuron.supervisor.resident import TURN_LEAST_S, Resident
from neuron.supervisor.start import STALL_S
from tests.neuron.fleet_of_one import MemoryEngine, World, in_virtual_time

SIZES = {"a": 300, "b": 500, "c": 700, "d": 900, "e": 1400}


def request(model: str, **more: Any) -> LoadRequest:
    return LoadRequest(model=model, profile=Profile(id=model, vram_mb=SIZES[model]), **more)


async def loaded(world: World, model: str, **more: Any) -> Any:
    running = world.supervisor.load(request(model, **more))
    await running.wait()
    assert running.error is None, running.error
    return world.replicas.of(model)[0]


async def reached(resident: Resident, state: State) -> None:
    while resident.state is not state:
        await resident.changed.wait()


def victim(world: World, model: str, mode: Any = "idle", drain_s: float = 120.0) -> Victim:
    resident = world.replicas.of(model)[0]
    return Victim(replica=resident.id, version=resident.version, mode=mode, drain_s=drain_s)


def test_a_victims_memory_passes_to_its_successor_and_to_nobody_else(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        await loaded(world, "e", placement=(Share("cuda:1", 1400),))
        await loaded(world, "d", placement=(Share("cuda:0", 900),))
        swap = world.supervisor.load(request("c", evict=(victim(world, "e"),)))
        with pytest.raises(Refused) as caught:
            world.supervisor.load(request("b"))
        assert caught.value.refusal.code == "outrun"
        await swap.wait()
        assert {resident.model for resident in world.replicas} == {"c", "d"}
        assert world.replicas.free_mb() == {"cuda:0": 100, "cuda:1": 800}

    in_virtual_time(tmp_path, scene, turn_guard_s=0.0)


def test_a_model_is_moved_to_another_device_by_letting_itself_go(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        first = await loaded(world, "b", placement=(Share("cuda:1", 500),))
        move = world.supervisor.load(
            request("b", placement=(Share("cuda:0", 500),), evict=(victim(world, "b", "drain"),))
        )
        await move.wait()
        [resident] = world.replicas
        assert (resident.id != first.id, resident.devices) == (True, ("cuda:0",))

    in_virtual_time(tmp_path, scene)


def test_what_only_moving_a_pin_would_make_fit_can_never_fit(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        await loaded(world, "c", placement=(Share("cuda:1", 700),))
        with pytest.raises(Refused) as caught:
            world.supervisor.load(request("e"))
        assert caught.value.refusal.code == "insufficient_memory"
        world.standing.pin(PinRequest(model="c"))
        with pytest.raises(Refused, match=r"moving what is pinned \(c\)") as caught:
            world.supervisor.load(request("e"))
        assert (caught.value.refusal.code, caught.value.refusal.need_mb) == ("model_cannot_fit", 1400)

    in_virtual_time(tmp_path, scene)


def test_a_failed_load_leaves_nothing_and_is_told_to_all_who_joined(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        world.owners.fails = lambda spec: "weights"
        first, second = world.supervisor.load(request("a")), world.supervisor.load(request("a"))
        assert second.joined
        await first.wait()
        await second.wait()
        for running in (first, second):
            assert running.error is not None
            assert (running.error.code, running.error.retry) == ("load_failed", "never")
            assert "weights: it was told to fail" in running.error.message
            assert running.error.retry_in_s == 5.0
        assert list(world.replicas) == []
        assert world.replicas.free_mb() == {"cuda:0": 1000, "cuda:1": 1500}
        with pytest.raises(Refused, match="it failed 1 times"):  # a machine waits
            world.supervisor.load(request("a", instance_id="i"))
        world.owners.fails = lambda spec: ""
        await loaded(world, "a")  # a person need not
        assert world.learned.failures() == ()

    in_virtual_time(tmp_path, scene)


def test_goal_F07_a_load_that_hangs_is_ended(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        world.owners.hangs = lambda spec: True
        began = world.parts.clock()
        running = world.supervisor.load(request("a"))
        await running.wait()
        assert running.error is not None
        assert "hangs" in running.error.message
        assert STALL_S <= world.parts.clock() - began <= STALL_S + 1
        assert list(world.replicas) == []

    in_virtual_time(tmp_path, scene)


def test_waiting_for_the_devices_turn_is_no_hang(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        world.owners.hangs = lambda spec: spec.model == "a"
        hanging = world.supervisor.load(request("a", placement=(Share("cuda:0", 300),)))
        waiting = world.supervisor.load(request("b", placement=(Share("cuda:0", 500),)))
        await waiting.wait()
        assert waiting.error is None
        assert hanging.error is not None

    in_virtual_time(tmp_path, scene)


def test_an_engine_that_dies_is_started_again_at_once_and_then_ever_more_slowly(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        resident = await loaded(world, "a")
        waits = []
        for _ in range(STRIKES_MOST):
            died = world.parts.clock()
            world.owners.engines[-1].end(Ended(clean=False, reason="killed"))
            await reached(resident, State.LOADING)
            waits.append(world.parts.clock() - died)
            await reached(resident, State.READY)
        assert waits == pytest.approx([0.3 + wait for wait in REVIVE_S], abs=0.2)
        world.owners.engines[-1].end(Ended(clean=False, reason="killed again"))
        await reached(resident, State.FAILED)
        assert list(world.replicas) == []
        [failure] = world.learned.failures()
        assert "killed again" in failure.message

    in_virtual_time(tmp_path, scene)


def test_an_engine_that_dies_again_is_started_where_else_there_is_room(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        async def dies(resident: Resident) -> None:
            assert isinstance(resident.engine, MemoryEngine)
            resident.engine.end(Ended(clean=False, reason="killed"))
            await reached(resident, State.RECOVERING)

        resident = await loaded(world, "c", placement=(Share("cuda:0", 700),))
        other = await loaded(world, "d", placement=(Share("cuda:1", 900),))
        for _ in range(2):
            await dies(resident)
            await reached(resident, State.READY)
            assert resident.devices == ("cuda:0",)
        world.supervisor.unload(UnloadRequest(replica=other.id))
        await reached(other, State.ABSENT)
        await dies(resident)
        await asyncio.sleep(1)
        [failure] = world.learned.failures()
        assert (failure.code, failure.scope) == ("engine_died", "device")  # so another neuron may try
        await reached(resident, State.READY)
        assert resident.devices == ("cuda:1",)
        assert world.replicas.free_mb() == {"cuda:0": 1000, "cuda:1": 800}

    in_virtual_time(tmp_path, scene, turn_guard_s=0.0)


def test_an_engine_that_served_long_is_started_again_at_once(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        resident = await loaded(world, "a")
        for _ in range(STRIKES_MOST * 2):
            await asyncio.sleep(100)
            world.owners.engines[-1].end(Ended(clean=False, reason="killed"))
            began = world.parts.clock()
            await resident.changed.wait()
            await reached(resident, State.READY)
            assert world.parts.clock() - began < 6

    in_virtual_time(tmp_path, scene)


def test_a_fresh_replica_is_protected_until_its_first_request_has_gone(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        resident = await loaded(world, "e")
        await loaded(world, "d")
        with pytest.raises(Refused, match="protected for 5 s") as caught:
            world.supervisor.load(request("c", evict=(victim(world, "d"),)))
        assert caught.value.refusal.retry_in_s == 5.0
        resident = world.replicas.of("d")[0]
        await resident.gate.enter("g", 1)
        assert world.replicas.evictable_in_s(resident) == pytest.approx(max(TURN_LEAST_S, 4 * resident.load_s))
        resident.gate.leave()
        resident.served = True
        assert world.replicas.evictable_in_s(resident) == 0.0
        world.standing.demand(DemandRequest(gateway="g", models={"d": Demand(waiters=1)}))
        assert resident.gate.posted == {"g": 1}
        assert world.replicas.evictable_in_s(resident) > 5
        await asyncio.sleep(3.1)  # the gateway said it no more
        assert world.replicas.evictable_in_s(resident) == 0.0

    in_virtual_time(tmp_path, scene)


def test_what_is_pinned_comes_back_by_itself_and_backs_off_when_it_fails(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        world.learned.seen(Profile(id="a", vram_mb=300, pinned_on=("beast",)), "beast")
        world.owners.fails = lambda spec: "weights"
        for _ in range(40):
            world.standing.keep_loaded()
            await asyncio.sleep(1.0)
        assert 3 <= world.owners.loads <= 4
        world.owners.fails = lambda spec: ""
        for _ in range(60):
            world.standing.keep_loaded()
            await asyncio.sleep(1.0)
        [resident] = world.replicas
        assert (resident.model, resident.state) == ("a", State.READY)

    in_virtual_time(tmp_path, scene)


def test_what_is_preloaded_is_loaded_once_and_may_go(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        for _ in range(10):
            world.standing.keep_loaded()
            await asyncio.sleep(1.0)
        [resident] = world.replicas
        world.supervisor.unload(UnloadRequest(replica=resident.id))
        for _ in range(10):
            world.standing.keep_loaded()
            await asyncio.sleep(1.0)
        assert list(world.replicas) == []

    in_virtual_time(tmp_path, scene, preload=("a",))


class Chaos:
    """Does whatever the dice say, and expects nothing but that it ends."""

    def __init__(self, world: World, dice: random.Random) -> None:
        self.world = world
        self.dice = dice
        self.operations: list[Running] = []

    async def play(self, steps: int) -> None:
        self.world.owners.fails = lambda spec: "weights" if self.dice.random() < 0.1 else ""
        async with asyncio.TaskGroup() as group:
            for _ in range(steps):
                act = self.dice.choice(
                    [
                        self.load,
                        self.load,
                        self.load,
                        self.unload,
                        self.ask,
                        self.ask,
                        self.kill,
                        self.cancel,
                        self.pin,
                        self.sleep,
                        self.wake,
                    ]
                )
                group.create_task(self.refusable(act()))
                await asyncio.sleep(self.dice.choice((0.0, 0.0, 0.1, 1.0, 7.0)))
        for model in SIZES:
            self.world.standing.pin(PinRequest(model=model, pinned=False))

    async def refusable(self, work: Coroutine[Any, Any, None]) -> None:
        with suppress(Refused):
            await work
        self.world.check()

    def some(self) -> list[Any]:
        residents = list(self.world.replicas)
        return self.dice.sample(residents, self.dice.randint(0, len(residents)))

    async def load(self) -> None:
        evict = tuple(
            Victim(
                replica=resident.id,
                version=resident.version - (self.dice.random() < 0.1),
                mode=self.dice.choice(("idle", "drain")),
                drain_s=self.dice.choice((0.0, 2.0, 60.0)),
            )
            for resident in self.some()
        )
        model = self.dice.choice(list(SIZES))
        engine = {"x": self.dice.choice((1, 1, 2)), SLEEP_OPTION: self.dice.random() < 0.5}
        profile = Profile(id=model, vram_mb=SIZES[model], engine=engine)
        replace = self.dice.random() < 0.3
        load = LoadRequest(model=model, profile=profile, evict=evict, replace=replace)
        self.operations.append(self.world.supervisor.load(load))

    async def unload(self) -> None:
        for resident in self.some()[:1]:
            unload = UnloadRequest(replica=resident.id, mode=self.dice.choice(("idle", "drain", "cut")), drain_s=3.0)
            self.operations.append(self.world.supervisor.unload(unload))

    async def sleep(self) -> None:
        for resident in self.some()[:1]:
            sleep = SleepRequest(replica=resident.id, level=self.dice.choice((1, 2)))
            self.operations.append(self.world.supervisor.sleep(sleep))

    async def wake(self) -> None:
        for resident in self.some()[:1]:
            self.operations.append(self.world.supervisor.wake(SleepRequest(replica=resident.id)))

    async def ask(self) -> None:
        for resident in self.some()[:1]:
            await resident.gate.enter(self.dice.choice("gh"), 5.0)
            await asyncio.sleep(self.dice.choice((0.0, 0.5, 20.0)))
            resident.gate.leave()
            resident.served = True

    async def kill(self) -> None:
        for engine in self.dice.sample(self.world.owners.engines, min(1, len(self.world.owners.engines))):
            engine.insomnia = self.dice.random() < 0.5
            if not engine.insomnia:
                engine.end(Ended(clean=False, reason="killed"))

    async def cancel(self) -> None:
        for running in self.dice.sample(self.operations, min(1, len(self.operations))):
            self.world.supervisor.cancel(running.id)

    async def pin(self) -> None:
        pin = PinRequest(model=self.dice.choice(list(SIZES)), pinned=self.dice.random() < 0.3)
        self.operations.append(self.world.standing.pin(pin))


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_goal_F06_whatever_happens_memory_is_never_promised_twice_and_everything_ends(
    tmp_path: Path, seed: int
) -> None:
    async def scene(world: World) -> None:
        chaos = Chaos(world, random.Random(seed))
        await chaos.play(steps=80)
        async with asyncio.timeout(3000):
            for running in chaos.operations:
                await running.wait()
        while residents := list(world.replicas):
            for resident in residents:
                with suppress(Refused):  # it drains for a swap that will end
                    world.supervisor.unload(UnloadRequest(replica=resident.id, mode="cut"))
            await asyncio.sleep(1.0)
        assert world.replicas.free_mb() == {"cuda:0": 1000, "cuda:1": 1500}

    in_virtual_time(tmp_path, scene, seed=seed)


def test_a_cordon_outlives_a_restart_and_ends(tmp_path: Path) -> None:
    async def scene(world: World) -> None:
        world.standing.cordon(CordonRequest(reason="a new fan"), True)
        with pytest.raises(Refused, match="a new fan"):
            world.supervisor.load(request("a"))
        world.learned.write(world.learned.taken())

    async def after(world: World) -> None:
        with pytest.raises(Refused, match="cordoned"):
            world.supervisor.load(request("a"))
        world.standing.cordon(CordonRequest(), False)
        await loaded(world, "a")

    in_virtual_time(tmp_path, scene)
    in_virtual_time(tmp_path, after)

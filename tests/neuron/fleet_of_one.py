"""One supervisor with everything it decides over, and engines that live in memory and virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from cortex_core.config.neuron import DeviceEntry, EngineTable, NeuronConfig, NeuronTable
from cortex_core.fleet import Fleet, Neuron, check_invariants
from cortex_gateway.sim import clock
from neuron.api.requests import Requests
from neuron.engines.base import PHASES, SLEEP_OPTION, Ended, Engine, EngineFailed, Facts, Finished, LoadSpec, Progress
from neuron.hardware.host import Host
from neuron.hardware.owners import Owners
from neuron.sizing.learned import Learned
from neuron.supervisor.engine_keeper import EngineKeeper
from neuron.supervisor.events import Hub
from neuron.supervisor.operations import Operations
from neuron.supervisor.parts import Parts
from neuron.supervisor.replicas import Replicas
from neuron.supervisor.standing import Standing
from neuron.supervisor.supervisor import Supervisor
from neuron.supervisor.work import Work


class MemoryEngine:
    """An engine that is nothing but its end."""

    def __init__(self, spec: LoadSpec) -> None:
        self.spec = spec
        self.socket = spec.socket
        can_sleep = bool(spec.options.get(SLEEP_OPTION))
        self.facts = Facts(context=1024, kv_tokens=4096, tasks=("generate",), simulated=True, can_sleep=can_sleep)
        self.insomnia = False
        self._ended: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()

    async def ended(self) -> Ended:
        return await asyncio.shield(self._ended)

    async def sleep(self, level: int) -> None:
        await asyncio.sleep(0.2)
        if self.insomnia or self._ended.done():
            raise EngineFailed("sleep", "it was told to fail")

    wake = sleep

    async def close(self, grace_s: float) -> None:
        await asyncio.sleep(0.3)
        self.end(Ended(clean=True))

    async def kill(self) -> None:
        await self.close(0.0)

    def end(self, ended: Ended) -> None:
        if not self._ended.done():
            self._ended.set_result(ended)


class MemoryOwners(Owners):
    """Loads take a while, and fail when `fails` says so; never two at once on a device."""

    def __init__(self, config: NeuronConfig, spawn: Callable[..., object], dice: random.Random) -> None:
        super().__init__(config, spawn)
        self._dice = dice
        self.fails: Callable[[LoadSpec], str] = lambda _spec: ""  # the phase
        self.hangs: Callable[[LoadSpec], bool] = lambda _spec: False
        self.engines: list[MemoryEngine] = []
        self.loads = 0
        self._busy: set[str] = set()

    async def load(
        self, spec: LoadSpec, on_progress: Callable[[Progress], None], on_finished: Callable[[Finished], None]
    ) -> Engine:
        self.loads += 1
        assert not self._busy & set(spec.devices), "two loads at once on a device"
        self._busy |= set(spec.devices)
        try:
            return await self._load(spec, on_progress)
        finally:
            self._busy -= set(spec.devices)

    async def _load(self, spec: LoadSpec, on_progress: Callable[[Progress], None]) -> Engine:
        for phase in PHASES:
            on_progress(Progress(phase=phase))
            await asyncio.sleep(self._dice.choice((0.0, 0.1, 0.5)))
            if self.fails(spec) == phase:
                raise EngineFailed(phase, "it was told to fail", "model")
            if self.hangs(spec):
                await asyncio.get_running_loop().create_future()
        engine = MemoryEngine(spec)
        self.engines.append(engine)
        return engine


class World:
    """Made inside a running loop; `group` owns what it starts."""

    def __init__(self, folder: Path, group: asyncio.TaskGroup, *, seed: int = 0, **engine: Any) -> None:
        self.config = NeuronConfig(
            neuron=NeuronTable(name="beast", state_dir=str(folder), run_dir="/tmp/run", models_dir=str(folder)),
            engine=EngineTable(kind="sim", **engine),
            devices=(DeviceEntry(id="cuda:0", memory_mb=1000), DeviceEntry(id="cuda:1", memory_mb=1500)),
        )
        clock = asyncio.get_running_loop().time

        def spawn(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
            return group.create_task(work)

        self.dice = random.Random(seed)
        self.owners = MemoryOwners(self.config, spawn, self.dice)
        self.hub = Hub()
        self.learned = Learned(folder, wall=clock)
        self.parts = Parts(
            config=self.config,
            name="beast",
            instance_id="i",
            host=Host(self.config),
            owners=self.owners,
            learned=self.learned,
            hub=self.hub,
            requests=Requests(clock),
            operations=Operations(clock, self.hub.operation),
            spawn=spawn,
            clock=clock,
        )
        self.replicas = Replicas(self.parts)
        self.keeper = EngineKeeper(self.parts, self.replicas)
        self.supervisor = Supervisor(self.parts, self.replicas, Work(self.parts, self.replicas, self.keeper))
        self.standing = Standing(self.parts, self.replicas, self.supervisor)

    def check(self) -> None:
        """What must hold at every moment."""
        devices = self.parts.host.devices({})
        neuron = Neuron(name="beast", up=True, devices=devices, replicas=self.replicas.views())
        check_invariants(Fleet(neurons={"beast": neuron}))
        assert all(free_mb >= 0 for free_mb in self.replicas.free_mb().values())
        for resident in self.replicas:
            assert resident.gate.in_flight <= resident.gate.max_in_flight
            if resident.claimed_by is not None:
                assert resident in resident.claimed_by.victims
                assert self.replicas.get(resident.claimed_by.id) is resident.claimed_by


def in_virtual_time(folder: Path, scene: Any, *, seed: int = 0, **engine: Any) -> World:
    """Play a scene, in which `world.check` holds at every moment that is looked at."""

    async def play() -> World:
        async with asyncio.TaskGroup() as group:
            world = World(folder, group, seed=seed, **engine)
            checks = group.create_task(check(world))
            await scene(world)
            checks.cancel()
            world.replicas.closing = True
            for engine_ in world.owners.engines:
                engine_.end(Ended(clean=True))
        return world

    async def check(world: World) -> None:
        while True:
            world.check()
            await asyncio.sleep(0.3)

    return clock.run(play(), seed=seed)

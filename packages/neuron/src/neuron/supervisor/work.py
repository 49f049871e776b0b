"""What follows a decision: one task for each swap, unload, sleep and wake, to the end of its operation."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from typing import Any, Literal

from msgspec import Struct

from cortex_core.fleet import State
from neuron.engines.base import EngineFailed
from neuron.supervisor.engine_keeper import EngineKeeper
from neuron.supervisor.lifecycle import ENDS, Event
from neuron.supervisor.operations import Running
from neuron.supervisor.parts import Parts
from neuron.supervisor.refusals import Refused
from neuron.supervisor.replicas import Replicas
from neuron.supervisor.resident import Resident
from neuron.supervisor.sleeper import Sleeper

log = logging.getLogger(__name__)

EVICTED_LEVEL = 1  # who makes room keeps its weights in host memory: it may soon be wanted again
Mode = Literal["idle", "drain", "cut"]
COMES_UP = frozenset({State.LOADING, State.RECOVERING, State.WAKING})


class Evictions(Struct, frozen=True):
    """How the victims of a load go."""

    drain_s: Mapping[str, float] = {}  # replica → what its requests get; 0: it must be idle
    asleep: frozenset[str] = frozenset()  # replicas that sleep instead of leaving


class Work:
    """Carries out what the supervisor has decided and reserved. Nothing here is refused any more, but it may fail."""

    def __init__(self, parts: Parts, replicas: Replicas, keeper: EngineKeeper) -> None:
        self._parts = parts
        self._hub = parts.hub
        self._replicas = replicas
        self._keeper = keeper
        self._sleeper = Sleeper(parts, replicas, keeper)

    def load(self, running: Running, resident: Resident, evictions: Evictions) -> None:
        self._begin(running, resident, self._load(running, resident, evictions))

    def wake(self, running: Running, resident: Resident, evictions: Evictions) -> None:
        self._begin(running, resident, self._wake(running, resident, evictions))

    def sleep(self, running: Running, resident: Resident, level: int) -> None:
        self._begin(running, resident, self._sleep(running, resident, level))

    def unload(
        self, running: Running, resident: Resident, mode: Literal["idle", "drain", "cut"], drain_s: float
    ) -> None:
        self._parts.spawn(self._unload(running, resident, mode, drain_s if mode == "drain" else 0.0))

    def follow(self, running: Running, resident: Resident) -> None:
        """The operation joins what is under way: it ends when the replica is ready, or will not be."""
        running.joined = True
        self._parts.spawn(self._follow(running, resident))

    def follow_end(self, running: Running, resident: Resident) -> None:
        running.joined = True
        self._parts.spawn(self._until_gone(running, resident))

    def cut(self, resident: Resident) -> None:
        self._keeper.cut(resident)

    def call_off(self, resident: Resident) -> None:
        self._parts.spawn(self._keeper.end(resident))

    def _begin(self, running: Running, resident: Resident, work: Coroutine[Any, Any, None]) -> None:
        """The replica's own task. However it ends, also cancelled before it began, its operation has an end."""

        async def run() -> None:
            try:
                await work
            finally:
                if resident.work is task:
                    resident.work = None

        def settle(_: asyncio.Task[None]) -> None:
            if running.ended is None:
                self._fail(running, resident, Refused("cancelled", f"the {running.kind} was called off"))

        task = resident.work = self._parts.spawn(run())
        task.add_done_callback(settle)

    def _fail(self, running: Running, resident: Resident, refused: Refused) -> None:
        resident.refused = refused
        running.finish(self._replicas.with_state(refused, resident.model).refusal)

    # Coming up

    async def _load(self, running: Running, resident: Resident, evictions: Evictions) -> None:
        try:
            await self._evict(running, resident, evictions)
            await self._keeper.start(resident, running.step)
        except Refused as refused:  # the drain ran out of time
            self._fail(running, resident, refused)
            resident.work = None
            await self._keeper.end(resident)
        except EngineFailed as error:
            resident.work = None
            self._fail(running, resident, self._refusal(resident, error))
        else:
            running.finish()
            self._hub.snapshot_due = True

    def _refusal(self, resident: Resident, error: EngineFailed) -> Refused:
        """The failure is kept, and told to whoever asked for the load."""
        failure = self._keeper.fail(resident, error)
        if error.phase == "config" and error.told:  # the engine does not take these options: no other would
            message = f"the engine refuses: {error.message}"
            return Refused("bad_request", message, field="profile.engine", failure=failure)
        self._hub.snapshot_due = True
        retry = "never" if failure.scope == "model" else "elsewhere"
        details = {"phase": error.phase}
        wait_s = failure.retry_in_s
        return Refused("load_failed", str(error), retry=retry, retry_in_s=wait_s, failure=failure, details=details)

    async def _wake(self, running: Running, resident: Resident, evictions: Evictions) -> None:
        try:
            await self._evict(running, resident, evictions)
            running.step("waking", 0.0)
            await self._sleeper.wake(resident)
        except Refused as refused:  # the drain ran out of time
            self._sleeper.asleep(resident)
            self._fail(running, resident, refused)
        except EngineFailed as error:
            self._lost(running, resident, error)
        else:
            running.finish()
            self._hub.snapshot_due = True

    async def _evict(self, running: Running, resident: Resident, evictions: Evictions) -> None:
        """Let the victims go: first all drain; if one does not in time, the load ends and all of them stay."""
        victims = list(resident.victims)
        if not victims:
            return
        began = self._parts.clock()
        running.step("draining", 0.0)
        for victim in victims:
            drain_s = evictions.drain_s[victim.id]
            try:
                async with asyncio.timeout_at(began + drain_s):
                    await victim.gate.until_empty()
            except TimeoutError as error:
                text = f"{victim.model} still has {victim.gate.in_flight} requests after {drain_s:g} s"
                raise Refused("drain_timeout", text) from error
        resident.committed = True
        running.step("evicting", 0.0)
        # Tasks of their own: what has begun to go is gone, also when this load is called off meanwhile.
        going = [self._let_go(victim, victim.id in evictions.asleep) for victim in victims]
        await asyncio.wait(going)

    def _let_go(self, victim: Resident, asleep: bool) -> asyncio.Task[None]:
        if not asleep or not victim.life.can(Event.SLEEP):
            return self._parts.spawn(self._keeper.end(victim))
        victim.work = self._parts.spawn(self._sleep_or_end(victim))
        return victim.work

    async def _sleep_or_end(self, victim: Resident) -> None:
        try:
            await self._sleeper.sleep(victim, EVICTED_LEVEL)
            victim.work = None
        except EngineFailed as error:
            log.warning("%s (%s) leaves, for it cannot sleep: %s", victim.model, victim.id, error)
            victim.work = None
            await self._keeper.end(victim)

    async def _follow(self, running: Running, resident: Resident) -> None:
        while resident.state in COMES_UP:
            running.step(resident.phase, resident.progress)
            await resident.changed.wait()
        if resident.state is State.READY:
            running.finish()
        else:
            refused = resident.refused or Refused("cancelled", "the load was called off")
            running.finish(self._replicas.with_state(refused, resident.model).refusal)

    # Going

    async def _unload(self, running: Running, resident: Resident, mode: Mode, drain_s: float) -> None:
        running.step("draining", 0.0)
        try:
            async with asyncio.timeout(drain_s):
                await resident.gate.until_empty()
        except TimeoutError:
            if mode != "cut":
                self._keeper.reopen(resident)
                text = f"{resident.model} still has {resident.gate.in_flight} requests after {drain_s:g} s"
                running.finish(self._replicas.with_state(Refused("drain_timeout", text), resident.model).refusal)
                return
            self._keeper.cut(resident)
        running.step("unloading", 0.0)
        await self._keeper.end(resident)
        running.finish()

    async def _until_gone(self, running: Running, resident: Resident) -> None:
        while resident.state not in ENDS:
            await resident.changed.wait()
        running.finish()

    async def _sleep(self, running: Running, resident: Resident, level: int) -> None:
        try:
            await self._sleeper.sleep(resident, level)
        except EngineFailed as error:
            self._lost(running, resident, error)
        else:
            running.finish()

    def _lost(self, running: Running, resident: Resident, error: EngineFailed) -> None:
        """An engine that neither sleeps nor wakes is started again, like one that died."""
        if resident.life.can(Event.DIED):
            self._keeper.died(resident, str(error))
        self._fail(running, resident, Refused("engine_died", f"{resident.model}: {error}"))

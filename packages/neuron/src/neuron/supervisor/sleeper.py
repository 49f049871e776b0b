"""Puts replicas' engines to sleep and wakes them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from neuron.engines.base import Engine, EngineFailed
from neuron.supervisor.engine_keeper import EngineKeeper
from neuron.supervisor.lifecycle import Event
from neuron.supervisor.parts import Parts
from neuron.supervisor.replicas import Replicas
from neuron.supervisor.resident import Resident

log = logging.getLogger(__name__)

SLEEP_S = 60.0  # for weights to go to host memory
WAKE_S = 120.0  # for weights to come back, from a disk at level 2


class Sleeper:
    """Carries out what was decided, as `EngineKeeper` does the rest."""

    def __init__(self, parts: Parts, replicas: Replicas, keeper: EngineKeeper) -> None:
        self._parts = parts
        self._host = parts.host
        self._learned = parts.learned
        self._clock = parts.clock
        self._replicas = replicas
        self._keeper = keeper

    async def sleep(self, resident: Resident, level: int) -> None:
        """Give its device's memory back, but what a sleeping engine keeps. Its gate is closed, and nobody is in.

        Raises:
            EngineFailed: it did not; what it holds now is unknown, so it must not go on.
        """
        async with self._turn(resident, SLEEP_S) as engine:
            await engine.sleep(level)
        if not resident.life.can(Event.SLEEP):
            raise EngineFailed("sleep", "its engine died")
        resident.asleep_level = level
        self._replicas.unclaim(resident)
        self.asleep(resident)
        log.info("%s (%s) sleeps at level %d", resident.model, resident.id, level)

    def asleep(self, resident: Resident) -> None:
        """It sleeps now, or goes on sleeping: called off before it woke."""
        resident.advance(Event.SLEEP)
        self._keeper.shut(resident)
        victims, resident.victims = resident.victims, []
        for victim in victims:
            self._keeper.reopen(victim)
        self._replicas.publish(resident)

    async def wake(self, resident: Resident) -> None:
        """Take the memory again that is promised to it, and open its gate. Raises EngineFailed as `sleep` does."""
        async with self._turn(resident, WAKE_S) as engine:
            await engine.wake(resident.asleep_level)
        now = self._clock()
        resident.ready_at = resident.idle_since = resident.progressed_at = now
        resident.served = False
        resident.advance(Event.SERVED)
        self._keeper.open_gate(resident)
        wake_s = now - resident.load_began
        self._learned.measured(resident.model, resident.digest, self._host.kind, wake_s=round(wake_s, 3))
        log.info("%s (%s) is awake after %.2f s", resident.model, resident.id, wake_s)
        self._replicas.publish(resident)

    @asynccontextmanager
    async def _turn(self, resident: Resident, limit_s: float) -> AsyncIterator[Engine]:
        """Its engine, alone on its devices, and not for ever."""
        engine, spec = resident.engine, resident.spec
        if engine is None or spec is None:
            raise EngineFailed("sleep", "its engine is gone")
        async with self._parts.owners.turn(spec.devices):
            resident.load_began = self._clock()
            try:
                async with asyncio.timeout(limit_s):
                    yield engine
            except TimeoutError as error:
                raise EngineFailed("sleep", f"it hangs: given up after {limit_s:g} s") from error

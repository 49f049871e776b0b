"""Finds engines that hang. A process that exists proves nothing, and an engine's own health check reads a flag.

What counts is progress while there is work: bytes of an answer, or, where none flow (a long prompt, an answer that is
not streamed), the engine's own counters of tokens moving.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from cortex_core.fleet import State
from neuron.api.exposition import values
from neuron.api.telemetry import SCRAPE_S, scrape
from neuron.supervisor.engine_keeper import EngineKeeper
from neuron.supervisor.replicas import Replicas
from neuron.supervisor.resident import Resident

COUNTERS = (
    "generation_tokens_total",
    "prompt_tokens_total",
    "iteration_tokens_total_count",
    "iteration_tokens_total_sum",
)
ASK_PART = 0.25  # of the stall limit without a byte, before the engine is asked for its counters
ANSWER_S = 0.4  # what it gets to answer when the limit is reached: by then it was asked again and again


class Watchdog:
    """`look` at every tick."""

    def __init__(self, replicas: Replicas, keeper: EngineKeeper, stall_s: float, clock: Callable[[], float]) -> None:
        self._replicas = replicas
        self._keeper = keeper
        self._stall_s = stall_s
        self._clock = clock
        self._counted: dict[str, float] = {}  # replica → its counters when last asked

    async def look(self) -> None:
        """At all of them side by side: one that does not answer must not hide the next."""
        async with asyncio.TaskGroup() as group:
            for resident in list(self._replicas):
                group.create_task(self._look_at(resident))

    async def _look_at(self, resident: Resident) -> None:
        if not self._works(resident):
            self._counted.pop(resident.id, None)
            return
        if self._clock() - resident.progressed_at >= self._stall_s * ASK_PART:
            await self._ask(resident)
        silent_s = self._clock() - resident.progressed_at
        if silent_s >= self._stall_s and self._works(resident):
            self._counted.pop(resident.id, None)
            self._keeper.died(resident, f"it hangs: no token for {silent_s:.0f} s")

    def _works(self, resident: Resident) -> bool:
        return resident.state in (State.READY, State.DRAINING) and resident.gate.in_flight > 0

    async def _ask(self, resident: Resident) -> None:
        """Counters that moved since they were last asked for are progress."""
        if resident.client is None:
            return
        left_s = self._stall_s - (self._clock() - resident.progressed_at)
        counted = values(await scrape(resident.client, min(SCRAPE_S, max(ANSWER_S, left_s))), COUNTERS)
        before = self._counted.get(resident.id)
        self._counted[resident.id] = counted
        if before is not None and counted > before:
            resident.progressed_at = self._clock()

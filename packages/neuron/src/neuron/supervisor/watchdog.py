"""Finds engines that hang. A process that exists proves nothing, and an engine's own health check reads a flag.

What counts is progress while there is work: bytes of an answer, or, where none flow (a long prompt, an answer that is
not streamed), the engine's own counters of tokens moving. An engine that hangs loses its requests first, and is started
again if it does not go on without them. A single request that is silent while others go on is its caller's to give up:
nobody here can tell it from one that waits its turn, and leaving it aborts it.
"""

from __future__ import annotations

import asyncio
import logging

from cortex_core.fleet import State
from cortex_core.http import Client
from neuron.api.exposition import values
from neuron.api.telemetry import SCRAPE_S, scrape
from neuron.supervisor.engine_keeper import STABLE_S, EngineKeeper
from neuron.supervisor.parts import Parts
from neuron.supervisor.replicas import Replicas
from neuron.supervisor.resident import Resident

log = logging.getLogger(__name__)

COUNTERS = (
    "generation_tokens_total",
    "prompt_tokens_total",
    "iteration_tokens_total_count",
    "iteration_tokens_total_sum",
)
ASK_PART = 0.25  # of the stall limit without a byte, before the engine is asked for its counters
ANSWER_S = 0.4  # what it gets to answer when the limit is reached: by then it was asked again and again
UNDER_WAY = ("num_requests_running", "num_requests_waiting")  # gauges of an engine
FREED_S = 0.5  # for these to fall to nothing, once its requests are aborted
FREED_POLL_S = 0.05


class Watchdog:
    """`look` at every tick."""

    def __init__(self, parts: Parts, replicas: Replicas, keeper: EngineKeeper) -> None:
        self._stall_s = parts.config.engine.stall_s
        self._clock = parts.clock
        self._spawn = parts.spawn
        self._replicas = replicas
        self._keeper = keeper
        self._counted: dict[str, float] = {}  # replica → its counters when it last answered
        self._mute: set[str] = set()  # replicas that did not answer when last asked

    async def look(self) -> None:
        """At all of them side by side: one that does not answer must not hide the next."""
        async with asyncio.TaskGroup() as group:
            for resident in list(self._replicas):
                group.create_task(self._look_at(resident))

    async def _look_at(self, resident: Resident) -> None:
        if not self._works(resident):
            self._counted.pop(resident.id, None)
            self._mute.discard(resident.id)
            return
        silent_s = self._clock() - resident.progressed_at
        if silent_s >= self._stall_s * ASK_PART and not (silent_s >= self._stall_s and resident.id in self._mute):
            await self._ask(resident)
        silent_s = self._clock() - resident.progressed_at
        if silent_s >= self._stall_s and self._works(resident):
            self._end_its_hanging(resident, f"it hangs: no token for {silent_s:.0f} s")

    def _works(self, resident: Resident) -> bool:
        return resident.state in (State.READY, State.DRAINING) and resident.gate.in_flight > 0

    async def _ask(self, resident: Resident) -> None:
        """Counters that moved since they were last asked for are progress."""
        if resident.client is None:
            return
        left_s = self._stall_s - (self._clock() - resident.progressed_at)
        text = await scrape(resident.client, min(SCRAPE_S, max(ANSWER_S, left_s)))
        if not text:
            self._mute.add(resident.id)
            return
        self._mute.discard(resident.id)
        counted = values(text, COUNTERS)
        before = self._counted.get(resident.id)
        self._counted[resident.id] = counted
        if before is not None and counted > before:
            resident.progressed_at = self._clock()

    # What is done about one that hangs

    def _end_its_hanging(self, resident: Resident, reason: str) -> None:
        lately = self._clock() - resident.aborted_at < STABLE_S
        resident.aborted_at = self._clock()
        if lately:
            self._keeper.died(resident, reason)
        else:
            log.warning("%s (%s): %s; its requests are aborted", resident.model, resident.id, reason)
            self._spawn(self._see_whether_it_goes_on(resident, self._keeper.abort(resident, reason), reason))

    async def _see_whether_it_goes_on(self, resident: Resident, client: Client, reason: str) -> None:
        free = await _is_free(client)
        if resident.client is not client or resident.state not in (State.READY, State.DRAINING):
            return  # it ended meanwhile, or is let go
        if free:
            log.info("%s (%s) goes on without them", resident.model, resident.id)
            self._keeper.go_on(resident)
        else:
            self._keeper.died(resident, reason)


async def _is_free(client: Client) -> bool:
    """Whether an engine comes to have nothing to do. One that does not answer says nothing of that."""
    try:
        async with asyncio.timeout(FREED_S):
            while True:
                if (text := await scrape(client, FREED_S)) and not values(text, UNDER_WAY):
                    return True
                await asyncio.sleep(FREED_POLL_S)
    except TimeoutError:
        return False

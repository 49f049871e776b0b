"""Follows one neuron: what it says becomes events for the dispatcher, and its silence does too.

The watch (`GET /events`) tells everything as it happens; the poll (`GET /models`) heals what a watch may have missed
and runs in a task of its own, so that no neuron delays another.

A neuron is lost when no byte came on any of its connections for `SILENCE_S` and a fresh connect fails, where a connect
counts when `/version` answered: a stopped process still accepts. One thing more is proof, and at once: it closed its
events itself, and its host says that nobody listens. Then the daemon is gone, and waiting would only keep requests
from its neighbours.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable

import aiohttp
import msgspec

from cortex_core import neuron_api
from cortex_core.dialects.sse import Event as SseEvent
from cortex_core.http import Client
from cortex_core.neuron_api import (
    CordonRequest,
    DemandEvent,
    DemandRequest,
    FinishedEvent,
    Gauges,
    LoadRequest,
    Operation,
    PinRequest,
    ReplicaEvent,
    Report,
    UnloadRequest,
)
from cortex_gateway.dispatch.commands import Refused, Unreachable
from cortex_gateway.neurons.client import Ended, Incompatible, NeuronClient, NoConnection
from cortex_gateway.policy.transitions import Beat, Demanded, Discovered, Event, Lost, ReplicaChanged, Reported

log = logging.getLogger(__name__)

POLL_S = 10.0  # as the original; jittered, so that neurons and gateways do not fall into step
POLLS_BETWEEN_DISCOVERIES = 6
RETRY_S, RETRY_MAX_S = 0.25, 2.0
STEADY_S = 3.0  # a watch that held so long is tried again without a pause

Observe = Callable[[Event], None]


class Follower:
    """One configured neuron. Owns its byte path, whose streams end with an error when the neuron is lost."""

    def __init__(
        self,
        name: str,
        endpoint: str,
        kept: aiohttp.ClientSession,
        fresh: aiohttp.ClientSession,
        on_finished: Callable[[FinishedEvent], None],
    ) -> None:
        self.name = name
        self.byte_path = Client(endpoint)
        self._endpoint = endpoint
        self._on_finished = on_finished
        self._client = NeuronClient(kept, fresh, endpoint, self._heard)
        self._observe: Observe
        self._instance_id = ""
        self._discovered = ""  # the instance that was asked for its hardware
        self._last_byte_at = float("-inf")
        self._lost = False
        self._ended = False  # it closed the watch itself
        self._commands: set[asyncio.Timeout] = set()  # waits that end with the neuron
        self._wake = asyncio.Event()

    async def run(self, observe: Observe) -> None:
        """Until cancelled; `observe` is told of everything."""
        self._observe = observe
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch(), name=f"watch {self.name}")
            tasks.create_task(self._poll(), name=f"poll {self.name}")

    def suspect(self) -> None:
        """Somebody could not connect: look now."""
        self._wake.set()

    # ------------------------------------------------------------------ commands

    async def load(self, request: LoadRequest) -> Operation:
        return await self._command("/models/load", request)

    async def unload(self, request: UnloadRequest) -> Operation:
        return await self._command("/models/unload", request)

    async def pin(self, request: PinRequest) -> Operation:
        return await self._command("/models/pin", request)

    async def cordon(self, request: CordonRequest, cordoned: bool) -> Operation:
        return await self._command("/cordon" if cordoned else "/uncordon", request)

    async def demand(self, request: DemandRequest) -> None:
        try:
            await self._client.tell("/demand", request)
        except Incompatible as error:
            raise Unreachable(str(error)) from error

    async def _command(self, path: str, request: msgspec.Struct) -> Operation:
        """The neuron bounds its operations; we wait as long as it lives."""
        try:
            async with asyncio.timeout(None) as wait:
                self._commands.add(wait)
                try:
                    return await self._client.command(path, request)
                finally:
                    self._commands.discard(wait)
        except TimeoutError:
            raise Unreachable(f"{self.name} was lost") from None
        except Incompatible as error:
            raise Unreachable(str(error)) from error

    # ------------------------------------------------------------------ watch and poll

    async def _watch(self) -> None:
        pause_s = 0.0
        while True:
            began = time.monotonic()
            try:
                await self._greet()
                await self._listen()
            except (Refused, Incompatible) as problem:  # it lives, and will not have us
                await self._lose(str(problem))
            except Unreachable as problem:
                log.debug("neuron %s: %s", self.name, problem)
            steady = time.monotonic() - began >= STEADY_S
            pause_s = 0.0 if steady and not self._lost else min(max(RETRY_S, 2 * pause_s), RETRY_MAX_S)
            await self._pause(pause_s)

    async def _greet(self) -> None:
        """A fresh connect. Its failure is what makes silence a loss."""
        try:
            version = await self._client.version()
        except Unreachable as problem:
            gone = isinstance(problem, NoConnection) and problem.refused and self._ended
            if gone or not self._instance_id or self._silent_s() >= neuron_api.SILENCE_S:
                await self._lose(str(problem))
            raise
        if neuron_api.API not in version.api:
            raise Incompatible(f"it speaks {version.api} of the contract, this gateway {neuron_api.API}")
        self._ended = False

    async def _listen(self) -> None:
        try:
            async with self._client.events() as events:
                async for event in events:
                    self._hear(event)
                    if self._discovered != self._instance_id:
                        await self._discover()
        except Ended:
            self._ended = True
            raise

    async def _discover(self) -> None:
        self._observe(Discovered(self.name, await self._client.discovery()))
        self._discovered = self._instance_id

    def _hear(self, event: SseEvent) -> None:
        now = time.monotonic()
        try:
            if event.event == "heartbeat":
                self._observe(Beat(self.name, self._instance_id, msgspec.json.decode(event.data, type=Gauges), now))
            elif event.event == "replica":
                change = msgspec.json.decode(event.data, type=ReplicaEvent)
                self._observe(ReplicaChanged(self.name, self._instance_id, change, now))
            elif event.event == "finished":
                self._on_finished(msgspec.json.decode(event.data, type=FinishedEvent))
            elif event.event == "demand":
                posted = msgspec.json.decode(event.data, type=DemandEvent)
                self._observe(Demanded(self.name, self._instance_id, posted))
            elif event.event == "snapshot":
                self._reported(msgspec.json.decode(event.data, type=Report))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise Unreachable(f"its {event.event} event cannot be read: {error}") from error

    def _reported(self, report: Report) -> None:
        if self._lost or report.instance_id != self._instance_id:
            log.info("neuron %s: up, instance %s, %s", self.name, report.instance_id, report.build)
        self._instance_id = report.instance_id
        self._lost = False
        self._observe(Reported(self.name, report, time.monotonic()))

    async def _poll(self) -> None:
        polls = 0
        while True:
            await asyncio.sleep(POLL_S * random.uniform(0.8, 1.2))
            polls += 1
            try:
                self._reported(await self._client.models())
                if polls % POLLS_BETWEEN_DISCOVERIES == 0:
                    await self._discover()
            except (Unreachable, Refused, Incompatible) as problem:
                log.debug("neuron %s: poll: %s", self.name, problem)  # changes nothing: the watch judges

    # ------------------------------------------------------------------ liveness

    def _heard(self) -> None:
        self._last_byte_at = time.monotonic()

    def _silent_s(self) -> float:
        return time.monotonic() - max(self._last_byte_at, self.byte_path.last_byte_at)

    async def _lose(self, problem: str) -> None:
        self._observe(Lost(self.name, problem))
        if self._lost:
            return
        self._lost = True
        log.warning("neuron %s: down: %s", self.name, problem)
        for wait in self._commands:
            wait.reschedule(asyncio.get_running_loop().time())
        broken, self.byte_path = self.byte_path, Client(self._endpoint)
        await broken.close()

    async def _pause(self, seconds: float) -> None:
        """Until it is time to try again, or somebody has reason to know sooner."""
        self._wake.clear()
        if seconds:
            try:
                async with asyncio.timeout(seconds * random.uniform(0.8, 1.2)):
                    await self._wake.wait()
            except TimeoutError:
                pass

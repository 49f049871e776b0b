"""What lies between one gateway and one neuron: distance, loss, partitions, and how the gateway learns of all that."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from cortex_core.neuron_api import SILENCE_S, DemandEvent, Gauges, ReplicaEvent, Report
from cortex_gateway.dispatch.commands import Refused, Unreachable
from cortex_gateway.policy.transitions import Beat, Demanded, Event, Lost, ReplicaChanged, Reported
from cortex_gateway.sim.connection import Broken, Connection
from cortex_gateway.sim.neuron import Head, SimNeuron
from cortex_gateway.sim.truth import Message

T = TypeVar("T")

CONNECT_S = 2.0  # what takes longer has failed
RETRY_S = 1.0  # between connects
POLL_S = 10.0
APART_S = 1e-9  # between events of one stream, which keep their order


class Link:
    """A gateway's client of one neuron. `run` follows its events; `call` and `request` are what is asked of it.

    Args:
        distance_s: the mean of the time that a message takes, one way.
        observe: told of what is heard, as the gateway's transitions.
    """

    def __init__(
        self, neuron: SimNeuron, distance_s: float, dice: random.Random, observe: Callable[[Event], None]
    ) -> None:
        self.neuron = neuron
        self.loss = 0.0  # the share of events and polls that never arrive
        self.healed_at = 0.0
        self.open: dict[Connection, None] = {}
        self._distance_s = distance_s
        self._dice = dice
        self._observe = observe
        self._loop = asyncio.get_running_loop()
        self._passable = asyncio.Event()
        self._passable.set()
        self._held: list[Callable[[], None]] = []  # what happens once a partition heals
        self._stream: Stream | None = None
        self._heard_at = 0.0
        self._polled_at = 0.0

    @property
    def is_cut(self) -> bool:
        return not self._passable.is_set()

    def hurt(self, loss: float) -> None:
        """Lose this share of events and polls; with 1.0, a partition: what is sent waits."""
        if loss < 1.0:
            self.loss = loss
        else:
            self._passable.clear()

    def heal(self) -> None:
        self.loss = 0.0
        self.healed_at = self._loop.time()
        self._passable.set()
        held, self._held = self._held, []
        for act in held:
            act()

    def when_passable(self, act: Callable[[], None]) -> None:
        """Something reaches the other side: now, or once the partition heals."""
        if self.is_cut:
            self._held.append(act)
        else:
            act()

    def latency_s(self) -> float:
        return self._distance_s * self._dice.uniform(0.5, 1.5)

    # ---------------------------------------------------------------- calls

    async def call(self, send: Callable[[], Awaitable[T]]) -> T:
        """A command and its answer.

        Raises:
            Refused: by the neuron.
            Unreachable: there was no connection, or it broke.
        """
        try:
            async with Connection(self.open):
                await self._connect()
                try:
                    answer = await send()
                except Refused:
                    await self._travel()
                    raise
                await self._travel()
                return answer
        except Broken as broken:
            raise Unreachable from broken

    async def tell(self, act: Callable[[], None]) -> None:
        """A command that is answered at once. Raises Unreachable."""
        try:
            async with Connection(self.open):
                await self._connect()
                act()
        except Broken as broken:
            raise Unreachable from broken

    async def request(self, head: Head, tokens: int) -> None:
        """A request, until its answer is complete.

        Raises:
            Refused: by the neuron.
            Unreachable: there was no connection, so that it was not executed.
            Broken: it may have been executed.
        """
        begun = False
        try:
            async with Connection(self.open):
                try:
                    await self._connect()
                except Broken as broken:
                    raise Unreachable from broken
                try:
                    generation = self.neuron.admit(head, tokens)
                    try:
                        await generation.ended
                        await self._travel()
                    finally:
                        begun = self.neuron.has_begun(generation)
                        self.when_passable(lambda: self.neuron.leave(generation))
                except Refused:
                    await self._travel()
                    raise
        except Broken:
            raise Broken(begun=begun) from None

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(CONNECT_S):
                await self._travel()
        except TimeoutError:
            raise Broken from None
        if not self.neuron.up:
            raise Broken

    async def _travel(self) -> None:
        await asyncio.sleep(self.latency_s())
        if self.is_cut:
            await self._passable.wait()

    # ---------------------------------------------------------------- listening

    async def run(self) -> None:
        """Follow the events, poll, and notice silence, until cancelled."""
        self._heard_at = self._polled_at = self._loop.time()
        while True:
            if self._stream is None or self._stream.ended.is_set():
                ended, self._stream = self._stream is not None, None
                try:
                    await self._connect()
                except Broken:
                    if self._is_silent() or (ended and not self.is_cut):  # its host says that nobody listens
                        self._lose()
                    await asyncio.sleep(RETRY_S)
                    continue
                self._stream = Stream(self)
            await self._follow(self._stream)

    async def _follow(self, stream: Stream) -> None:
        """Until the stream has ended, a poll is due, or nothing was heard for too long."""
        now = self._loop.time()
        due = min(self._polled_at + POLL_S, max(self._heard_at + SILENCE_S, now + RETRY_S))
        try:
            async with asyncio.timeout_at(due):
                await stream.ended.wait()
                return
        except TimeoutError:
            pass
        poll = self._loop.time() >= self._polled_at + POLL_S
        if poll:
            self._polled_at = self._loop.time()
        try:
            await self._connect()
        except Broken:
            if self._is_silent():
                self._lose()
            return
        if poll and self._dice.random() >= self.loss:
            report = self.neuron.report()
            await asyncio.sleep(self.latency_s())  # it may be overtaken by events
            self.heard(Reported(self.neuron.name, report, self._loop.time()))

    def _is_silent(self) -> bool:
        return self._loop.time() - self._heard_at >= SILENCE_S

    def heard(self, event: Event) -> None:
        self._heard_at = self._loop.time()
        self._observe(event)

    def reset(self) -> None:
        """The neuron's process died: its connections break."""
        for connection in tuple(self.open):
            connection.sever()

    def _lose(self) -> None:
        """It is down, as far as can be known here: now its streams end, and only now."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        self.reset()
        self._observe(Lost(self.neuron.name, "no sign of life"))

    def close(self) -> None:
        """The gateway's process died."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


class Stream:
    """One subscription to a neuron's events, in their order."""

    def __init__(self, link: Link) -> None:
        self.ended = asyncio.Event()
        self._link = link
        self._loop = asyncio.get_running_loop()
        self._arrives_at = 0.0
        self._closed = False
        self._instance_id = link.neuron.instance_id
        self._unsubscribe = link.neuron.subscribe(self._sent)

    def close(self) -> None:
        self._closed = True
        self._link.when_passable(self._unsubscribe)

    def _sent(self, message: Message | None) -> None:
        if self._link.loss and isinstance(message, ReplicaEvent | DemandEvent | Gauges) and self._lost():
            return
        now = self._loop.time()
        self._arrives_at = max(now + self._link.latency_s(), self._arrives_at + APART_S)
        self._loop.call_at(self._arrives_at, self._arrive, message)

    def _lost(self) -> bool:
        return self._link._dice.random() < self._link.loss

    def _arrive(self, message: Message | None) -> None:
        self._link.when_passable(lambda: self._tell(message))

    def _tell(self, message: Message | None) -> None:
        if self._closed:
            return
        link, name, now = self._link, self._link.neuron.name, self._loop.time()
        match message:
            case Report():
                link.heard(Reported(name, message, now))
            case ReplicaEvent():
                link.heard(ReplicaChanged(name, self._instance_id, message, now))
            case DemandEvent():
                link.heard(Demanded(name, self._instance_id, message))
            case Gauges():
                link.heard(Beat(name, self._instance_id, message, now))
            case None:
                self._closed = True
                self.ended.set()
                link.reset()

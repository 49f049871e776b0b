"""The neuron's events: a snapshot first, then whatever happens, numbered. Who cannot follow is disconnected.

A reader that skipped an event would believe something false for ever; one that is cut off comes back and gets a
snapshot.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping

import msgspec

from cortex_core.fleet import Demand
from cortex_core.neuron_api import DemandEvent, FinishedEvent, Gauges, Operation, ReplicaEvent, Report

BEHIND_MOST = 2000  # events that a reader may be behind
FINISHED_KEPT = 10_000

Encoded = tuple[str, bytes]  # the event's name, and its data as JSON


class TooSlow(Exception):
    """The reader is more than `BEHIND_MOST` events behind."""


class Closed(Exception):
    """The neuron ends: no more events."""


class Reader:
    """One subscription. After an exception of `next` the reader is gone."""

    __slots__ = ("_closed", "_lost", "_pending", "_waiter", "gateway")

    def __init__(self, gateway: str) -> None:
        self.gateway = gateway
        self._pending: deque[Encoded] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._lost = False
        self._closed = False

    def put(self, event: Encoded) -> None:
        if len(self._pending) >= BEHIND_MOST:
            self._lost = True
        else:
            self._pending.append(event)
        self._wake()

    def close(self) -> None:
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def next(self) -> list[Encoded]:
        """All events that came since the last call, one at least. Raises TooSlow, Closed."""
        while not (self._pending or self._lost or self._closed):
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if self._lost:
            raise TooSlow
        if not self._pending:
            raise Closed
        events = list(self._pending)
        self._pending.clear()
        return events


class Hub:
    """Numbers events and hands them to every reader."""

    def __init__(self) -> None:
        self.seq = 0
        self.snapshot_due = False  # something changed that only a snapshot tells
        self.beat_due = asyncio.Event()  # the gauges tell something that others wait for
        self._readers: set[Reader] = set()
        self._finished: deque[FinishedEvent] = deque(maxlen=FINISHED_KEPT)
        self._encode = msgspec.json.Encoder().encode

    @property
    def readers(self) -> int:
        return len(self._readers)

    def subscribe(self, gateway: str, report: Callable[[], Report]) -> Reader:
        """A reader whose first event is the snapshot: nothing can happen between the two."""
        reader = Reader(gateway)
        reader.put(("snapshot", self._encode(report())))
        self._readers.add(reader)
        return reader

    def unsubscribe(self, reader: Reader) -> None:
        self._readers.discard(reader)

    def close(self) -> None:
        """End every subscription, cleanly."""
        for reader in self._readers:
            reader.close()

    def number(self) -> int:
        """The number of the next event."""
        self.seq += 1
        return self.seq

    def snapshot(self, report: Callable[[], Report]) -> None:
        """To all: something changed that has no event of its own (what was learned, pins, the model folder)."""
        self.number()
        if self._readers:
            self._send("snapshot", self._encode(report()))

    def replica(self, event: ReplicaEvent) -> None:
        self._send("replica", self._encode(event))

    def demand(self, demand: Mapping[str, Mapping[str, Demand]]) -> None:
        seq = self.number()
        if self._readers:
            self._send("demand", self._encode(DemandEvent(seq=seq, demand=demand)))

    def operation(self, operation: Operation) -> None:
        self.number()
        if self._readers:
            self._send("operation", self._encode(operation))

    def heartbeat(self, gauges: Gauges) -> None:
        self._send("heartbeat", self._encode(gauges))

    def finished(self, event: FinishedEvent) -> None:
        """To the gateway whose request it was, and kept for it to read again."""
        self._finished.append(event)
        data = self._encode(event)
        for reader in self._readers:
            if reader.gateway == event.gateway:
                reader.put(("finished", data))

    def finished_after(self, gateway: str, after: int) -> list[FinishedEvent]:
        return [event for event in self._finished if event.gateway == gateway and event.seq > after]

    def _send(self, name: str, data: bytes) -> None:
        for reader in self._readers:
            reader.put((name, data))

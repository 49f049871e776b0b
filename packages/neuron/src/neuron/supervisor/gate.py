"""The door of one replica: who holds a lease on it, and who waits for one.

Each gateway has a small queue of its own, and slots are shared by what each has waiting, here and at home: otherwise
the gateway nearest to the neuron would take every slot that becomes free.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping

from cortex_core.neuron_api import Refusal
from cortex_core.shares import Shares
from neuron.supervisor.refusals import Refused


class Gate:
    """Opens with `open`; a closed gate lets nobody in, and sends away who waits."""

    __slots__ = ("_closed", "_empty", "_queues", "_shares", "in_flight", "max_in_flight", "max_queue_depth", "posted")

    def __init__(self) -> None:
        self.in_flight = 0
        self.max_in_flight = 1
        self.max_queue_depth = 0  # of each gateway
        self.posted: Mapping[str, int] = {}  # gateway → requests that wait there
        self._queues: dict[str, deque[asyncio.Future[None]]] = {}
        self._shares = Shares()  # of those with a queue
        self._closed: Refusal | None = Refused("loading", "it is not loaded yet").refusal
        self._empty: asyncio.Future[None] | None = None

    @property
    def queue(self) -> int:
        """Requests that wait, of all gateways."""
        return sum(len(queue) for queue in self._queues.values())

    @property
    def demand(self) -> bool:
        return self.in_flight > 0 or bool(self._queues)

    def open(self, max_in_flight: int, max_queue_depth: int) -> None:
        self.max_in_flight, self.max_queue_depth = max_in_flight, max_queue_depth
        self._closed = None

    def close(self, why: Refused) -> None:
        """Nobody gets in any more; who waits is sent away with `why`, not executed. Leases go on."""
        self._closed = why.refusal
        for queue in self._queues.values():
            for waiter in queue:
                if not waiter.done():
                    waiter.set_exception(Refused.of(why.refusal))
        self._queues.clear()
        self._shares.clear()

    async def enter(self, gateway: str, deadline_s: float) -> None:
        """Take a lease, which `leave` gives back. Waits in the gateway's queue while all slots are taken.

        Raises:
            Refused: closed (as it was closed), `full`, or `deadline`.
        """
        if self._closed is not None:
            raise Refused.of(self._closed)  # a new one each time: a traceback keeps what it saw alive
        if self.in_flight < self.max_in_flight and not self._queues:
            self.in_flight += 1
            return
        queue = self._queues.setdefault(gateway, deque())
        if len(queue) >= self.max_queue_depth:
            if not queue:
                del self._queues[gateway]
            raise Refused("full", f"{self.in_flight} requests run and {self.queue} wait", retry_in_s=1.0)
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(waiter)
        if len(queue) == 1:
            self._join(gateway)
        try:
            async with asyncio.timeout(deadline_s or None):
                await waiter
        except BaseException as error:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.leave()  # granted and given up in the same turn of the loop
            self._forget(gateway, waiter)
            if isinstance(error, TimeoutError):
                raise Refused("deadline", f"no slot became free in {deadline_s:g} s", retry_in_s=1.0) from error
            raise

    def leave(self) -> None:
        """Give a lease back; the first waiter of the gateway whose turn it is gets it."""
        assert self.in_flight > 0, "a lease was given back twice"
        self.in_flight -= 1
        while self._queues and self.in_flight < self.max_in_flight:
            gateway = self._shares.next()
            waiter = self._queues[gateway].popleft()
            if self._queues[gateway]:
                self._join(gateway)
            else:
                self._drop(gateway)
            if not waiter.done():
                self.in_flight += 1
                waiter.set_result(None)
        if self.in_flight == 0 and self._empty is not None and not self._empty.done():
            self._empty.set_result(None)

    async def until_empty(self) -> None:
        """Until no lease is out. Meaningful on a closed gate, and for one caller at a time."""
        if self.in_flight:
            self._empty = asyncio.get_running_loop().create_future()
            await self._empty

    def _forget(self, gateway: str, waiter: asyncio.Future[None]) -> None:
        queue = self._queues.get(gateway)
        if queue is not None and waiter in queue:
            queue.remove(waiter)
            if not queue:
                self._drop(gateway)

    def _join(self, gateway: str) -> None:
        self._shares.join(gateway, len(self._queues[gateway]) + self.posted.get(gateway, 0))

    def _drop(self, gateway: str) -> None:
        del self._queues[gateway]
        self._shares.leave(gateway)

"""Everyone who waits for a replica: a fair queue for each model, and tickets for those told to come again."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING

from msgspec import Struct

from cortex_core.errors import CortexError
from cortex_gateway.policy.arrivals import Arrivals
from cortex_gateway.policy.fairness import FairQueue
from cortex_gateway.policy.schedule import Backlog

if TYPE_CHECKING:
    from cortex_gateway.policy.picture import Key
    from cortex_gateway.policy.placement import Candidate

TICKET_S = 90.0
"""How long one who was told to come again is expected: longer than any Retry-After of ours and its jitter."""
ALL_WAITERS = 4  # times the bound for one model


class Want(Struct, frozen=True, kw_only=True):
    """What a request needs of the fleet."""

    model: str  # a profile's id
    request_id: str
    caller: str = ""  # whose share of the fleet it takes: an API key, else the peer's address
    session: str = ""  # requests of one session share a prefix, and take turns with the caller's other sessions
    prompt_head: str = ""  # a digest of the prompt's beginning, where there is no session
    tokens: int = 0  # that it will probably take
    streaming: bool = False
    arrived: float = 0.0  # monotonic
    hold_s: float = 240.0  # from arrival until it is told to come again
    priority: int = 5  # 0 to 9

    @property
    def key(self) -> str:
        """What ties it to a replica's prefix cache."""
        return self.session or self.prompt_head


class Waiter:
    """A request without a lease yet."""

    __slots__ = ("arrived", "considered", "future", "swapped", "want")

    def __init__(self, want: Want, arrived: float, future: asyncio.Future[Key]) -> None:
        self.want = want
        self.arrived = arrived  # or its ticket's
        self.future = future
        self.swapped = False  # a load was under way for it
        self.considered: tuple[Candidate, ...] = ()

    @property
    def caller(self) -> str:
        return self.want.caller

    @property
    def session(self) -> str:
        return self.want.session

    @property
    def priority(self) -> int:
        return self.want.priority

    @property
    def tokens(self) -> int:
        return self.want.tokens


class WaitingRoom:
    """Bounded in number; a model's queue exists only while somebody is in it."""

    def __init__(self, max_waiters: int) -> None:
        self._queues: dict[str, FairQueue[Waiter]] = {}
        self._idle: OrderedDict[str, FairQueue[Waiter]] = OrderedDict()  # empty ones, for their callers' debts
        self._tickets: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()  # → (arrived, until)
        self._expected: dict[str, Arrivals] = {}  # model → those of its tickets
        self._max_waiters = max_waiters
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __contains__(self, model: str) -> bool:
        return model in self._queues

    def enter(self, want: Want, future: asyncio.Future[Key], now: float) -> Waiter:
        """Raises CortexError(queue_full) when a bound is hit."""
        queue = self._queues.get(want.model)
        if (queue is not None and len(queue) >= self._max_waiters) or self._size >= ALL_WAITERS * self._max_waiters:
            raise CortexError("queue_full", f"too many requests wait for {want.model} already")
        if queue is None:
            queue = self._idle.pop(want.model) if want.model in self._idle else FairQueue()
            self._queues[want.model] = queue
        arrived, until = self._tickets.get((want.model, want.caller), (want.arrived, 0.0))
        waiter = Waiter(want, min(want.arrived, arrived) if until > now else want.arrived, future)
        queue.push(waiter)
        self._size += 1
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """One that gave up, or nothing when it was taken before."""
        model = waiter.want.model
        queue = self._queues.get(model)
        if queue is not None and queue.remove(waiter):
            self._shrink(model, queue)

    def next(self, model: str) -> Waiter | None:
        """Take the next in turn. One that has left in this very moment is passed over."""
        queue = self._queues.get(model)
        while queue:
            waiter = queue.pop()
            self._shrink(model, queue)
            if not waiter.future.done():
                self._forget((model, waiter.caller))
                return waiter
        return None

    def everyone(self, model: str) -> list[Waiter]:
        """Take all of a model, and forget its tickets."""
        taken = []
        while (waiter := self.next(model)) is not None:
            taken.append(waiter)
        for key in [key for key in self._tickets if key[0] == model]:
            self._forget(key)
        return taken

    def of(self, model: str) -> list[Waiter]:
        """Those who wait for a model, without taking them."""
        return list(self._queues.get(model, ()))

    def expect_back(self, want: Want, arrived: float, now: float) -> None:
        """It is told to come again: until then its place is kept for it, and a load for it goes on."""
        key = (want.model, want.caller)
        self._forget(key)
        self._tickets[key] = (arrived, now + TICKET_S)
        self._expected.setdefault(want.model, Arrivals()).add(arrived)
        if len(self._tickets) > ALL_WAITERS * self._max_waiters:
            self._forget(next(iter(self._tickets)))

    def charge(self, model: str, caller: str, tokens: float) -> None:
        """Correct the estimate of a request by what it took."""
        queue = self._queues.get(model) or self._idle.get(model)
        if queue is not None:
            queue.charge(caller, tokens)

    def expire(self, now: float) -> None:
        while self._tickets:
            key, (_, until) = next(iter(self._tickets.items()))
            if until > now:
                return
            self._forget(key)

    def _forget(self, ticket: tuple[str, str]) -> None:
        arrived, _ = self._tickets.pop(ticket, (None, None))
        if arrived is not None:
            expected = self._expected[ticket[0]]
            expected.remove(arrived)
            if not expected:
                del self._expected[ticket[0]]

    def backlogs(self) -> list[Backlog]:
        """What waits, per model, tickets included."""
        found = []
        for model in {**self._queues, **self._expected}:
            queue, expected = self._queues.get(model), self._expected.get(model)
            found.append(
                Backlog(
                    model=model,
                    waiters=len(queue) if queue else 0,
                    tickets=len(expected) if expected else 0,
                    oldest=min(arrivals.oldest() for arrivals in (queue, expected) if arrivals),
                    priority=queue.priority if queue else 5,
                )
            )
        return found

    @property
    def is_quiet(self) -> bool:
        """Whether nobody waits and nobody is expected back."""
        return not self._queues and not self._tickets

    def waits(self, model: str) -> bool:
        """Whether somebody waits for it, or is expected back."""
        return model in self._queues or model in self._expected

    def _shrink(self, model: str, queue: FairQueue[Waiter]) -> None:
        self._size -= 1
        if not queue:
            del self._queues[model]
            self._idle[model] = queue
            if len(self._idle) > self._max_waiters:
                self._idle.popitem(last=False)

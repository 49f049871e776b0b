"""One simulated replica's door and engine: slots, a small queue for each gateway, tokens shared between requests."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping
from heapq import heappop, heappush

from msgspec import Struct

from cortex_core.neuron_api import REFUSALS, Executed, Refusal
from cortex_core.shares import Shares
from cortex_gateway.dispatch.commands import Refused
from cortex_gateway.sim.connection import Broken


class Speed(Struct, frozen=True, kw_only=True):
    """How fast a replica answers."""

    max_in_flight: int = 8
    max_queue_depth: int = 8  # of each gateway
    tokens_per_s: float = 400.0  # shared between all requests
    request_tokens_per_s: float = 80.0  # what one request gets at most
    first_tokens: float = 8.0  # the time to the first token, as tokens that are computed and not sent
    prompt_cost: float = 0.0  # of a token of the prompt that is not in the prefix cache, in such tokens
    cache_tokens: int = 0  # of the prefix cache


class Generation:
    """A request at a replica: from its head to the last byte of its answer."""

    __slots__ = ("begun", "ended", "first_at", "gateway", "id", "last_at", "prefix", "prompt_tokens", "tokens")

    def __init__(self, gateway: str, request_id: str, tokens: int, prefix: str = "", prompt_tokens: int = 0) -> None:
        self.gateway = gateway
        self.id = request_id
        self.tokens = tokens
        self.prefix = prefix  # requests of one prefix begin alike
        self.prompt_tokens = prompt_tokens
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.begun = False  # its first token was sent; told when it ends early
        self.first_at = 0.0  # in tokens of its engine
        self.last_at = 0.0

    def __lt__(self, other: Generation) -> bool:
        return self.last_at < other.last_at


class Engine:
    """Processor sharing in one number: how many tokens a request that was there from the start would have by now.

    A request ends when that number has grown by its own tokens, so one timer serves all.
    """

    def __init__(
        self, speed: Speed, on_empty: Callable[[], None] = lambda: None, work: Counter[str] | None = None
    ) -> None:
        self.speed = speed
        self.work: Counter[str] = Counter() if work is None else work  # tokens: made, prompted, and reused of those
        self._on_empty = on_empty
        self._prefixes: OrderedDict[str, int] = OrderedDict()  # tokens in the prefix cache
        self.begun = 0  # requests that got a slot
        self.ended = 0  # those of them that are over, however
        self.used_at = 0.0
        self.empty = asyncio.Event()
        self.empty.set()
        self._loop = asyncio.get_running_loop()
        self._running: dict[str, Generation] = {}
        self.posted: Mapping[str, int] = {}  # gateway → requests that wait there
        self._queues: dict[str, deque[Generation]] = {}
        self._shares = Shares()  # of those with a queue
        self._ends: list[Generation] = []
        self._done = 0.0  # tokens
        self._done_at = 0.0  # when that was reckoned
        self._timer: asyncio.TimerHandle | None = None

    @property
    def in_flight(self) -> int:
        return len(self._running)

    @property
    def queue(self) -> int:
        return sum(map(len, self._queues.values()))

    def has_begun(self, generation: Generation) -> bool:
        """Whether its first token was sent."""
        self._reckon()
        return generation.begun or (self._running.get(generation.id) is generation and self._is_begun(generation))

    def admit(self, generation: Generation, deadline_s: float = 0.0) -> None:
        """Raises Refused (`full`) when its gateway's queue is as long as it may be."""
        if len(self._running) < self.speed.max_in_flight and not self._queues:
            self._begin(generation)
            return
        waiting = self._queues.get(generation.gateway, ())
        if len(waiting) >= self.speed.max_queue_depth:
            raise refused("full", f"{self.in_flight} requests run and {self.queue} wait", retry_in_s=1.0)
        queue = self._queues.setdefault(generation.gateway, deque())
        queue.append(generation)
        if len(queue) == 1:
            self._join(generation.gateway)
        if deadline_s:
            self._loop.call_later(deadline_s, self._expire, generation)

    def leave(self, generation: Generation) -> None:
        """Its client went away, or its answer is complete. Nothing happens when it is not here any more."""
        if self._running.get(generation.id) is generation:
            self._reckon()
            generation.begun = self._is_begun(generation)
            del self._running[generation.id]
            self.ended += 1
            self._next()
        else:
            self._unqueue(generation)

    def _expire(self, generation: Generation) -> None:
        if self._unqueue(generation):
            _end(generation, refused("deadline", "no slot became free in time"))

    def _unqueue(self, generation: Generation) -> bool:
        queue = self._queues.get(generation.gateway)
        if queue is None or generation not in queue:
            return False
        queue.remove(generation)
        if not queue:
            self._drop(generation.gateway)
        return True

    def _join(self, gateway: str) -> None:
        self._shares.join(gateway, len(self._queues[gateway]) + self.posted.get(gateway, 0))

    def _drop(self, gateway: str) -> None:
        del self._queues[gateway]
        self._shares.leave(gateway)

    def refuse_waiting(self, refusal: Refused) -> None:
        """The gate closed: who waits is sent away, not executed; who runs goes on."""
        queues, self._queues = self._queues, {}
        self._shares.clear()
        for queue in queues.values():
            for generation in queue:
                _end(generation, refusal)

    def cut(self) -> int:
        """Break every answer; returns how many were running."""
        cut = len(self._running)
        self.refuse_waiting(refused("failed", "the engine is gone"))
        self._reckon()
        for generation in self._running.values():
            generation.begun = self._is_begun(generation)
            _end(generation, Broken())
        self._running.clear()
        self._next()
        return cut

    def _is_begun(self, generation: Generation) -> bool:
        return self._done >= generation.first_at

    def _begin(self, generation: Generation) -> None:
        self._reckon()
        self._running[generation.id] = generation
        self.begun += 1
        self.empty.clear()
        generation.first_at = self._done + self.speed.first_tokens + self._prompt(generation)
        generation.last_at = generation.first_at + generation.tokens
        heappush(self._ends, generation)
        self._arm()

    def _prompt(self, generation: Generation) -> float:
        """What computing its prompt costs, in tokens; its prefix is in the cache from now on."""
        prefix, count = generation.prefix, generation.prompt_tokens
        reused = min(count, self._prefixes.pop(prefix, 0)) if prefix else 0
        if prefix and self.speed.cache_tokens:
            self._prefixes[prefix] = count + generation.tokens
            while sum(self._prefixes.values()) > self.speed.cache_tokens:
                self._prefixes.popitem(last=False)
        self.work["prompted"] += count
        self.work["reused"] += reused
        return (count - reused) * self.speed.prompt_cost

    def _next(self) -> None:
        """Fill free slots, for each gateway by what it has waiting."""
        while self._queues and len(self._running) < self.speed.max_in_flight:
            gateway = self._shares.next()
            self._begin(self._queues[gateway].popleft())
            if self._queues[gateway]:
                self._join(gateway)
            else:
                self._drop(gateway)
        if not self._running:
            self.used_at = self._loop.time()
            self.empty.set()
            self._on_empty()
        self._arm()

    def _rate(self, running: int) -> float:
        return min(self.speed.request_tokens_per_s, self.speed.tokens_per_s / max(1, running))

    def _reckon(self) -> None:
        """Before any change of who runs."""
        now = self._loop.time()
        done = (now - self._done_at) * self._rate(len(self._running))
        self._done += done
        self.work["made"] += done * len(self._running)  # type: ignore[assignment] # a share of a token counts
        self._done_at = now

    def _arm(self) -> None:
        """Set the timer to the next end."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._ends and self._running.get(self._ends[0].id) is not self._ends[0]:
            heappop(self._ends)
        if self._ends:
            wait_s = (self._ends[0].last_at - self._done) / self._rate(len(self._running))
            self._timer = self._loop.call_at(self._done_at + max(0.0, wait_s), self._finish, self._ends[0])

    def _finish(self, generation: Generation) -> None:
        self._reckon()
        self._timer = None
        del self._running[generation.id]
        self.ended += 1
        _end(generation, None)
        self._next()


def refused(code: str, message: str, *, executed: Executed = "no", **fields: object) -> Refused:
    """A refusal with the status, and the place to try again, that the contract gives its code."""
    status, retry = REFUSALS[code]
    return Refused(Refusal(code=code, message=message, executed=executed, retry=retry, **fields), status)  # type: ignore[arg-type]


def _end(generation: Generation, error: Exception | None) -> None:
    if generation.ended.done():
        return
    if error is None:
        generation.ended.set_result(None)
    else:
        generation.ended.set_exception(error)
        generation.ended.exception()  # its client may be gone: nobody has to fetch it

"""Whose request of a model is next: by priority, then fairly between callers in tokens.

Deficit round robin (Shreedhar & Varghese 1995) with a token as its unit, as in Sheng et al., "Fairness in serving
large language models" (OSDI 2024). A caller's sessions take turns among themselves; a session is first come, first
served. What a request really took is charged when it ends.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from cortex_gateway.policy.arrivals import Arrivals

QUANTUM = 2048
"""Tokens that a caller gains a round: about one ordinary request, so that rounds are short."""
DEBT = 32 * QUANTUM
"""What a caller may owe at most: a single huge answer does not shut it out for long."""
REMEMBERED = 4096
"""Callers without requests whose debt is kept; the longest silent is forgotten first."""


class Queued(Protocol):
    """What can wait here."""

    @property
    def caller(self) -> str: ...
    @property
    def session(self) -> str: ...
    @property
    def priority(self) -> int: ...
    @property
    def tokens(self) -> int: ...  # that it will probably take
    @property
    def arrived(self) -> float: ...


Q = TypeVar("Q", bound=Queued)


class _Caller(Generic[Q]):
    """One caller's sessions at one priority."""

    __slots__ = ("sessions",)

    def __init__(self) -> None:
        self.sessions: OrderedDict[str, deque[Q]] = OrderedDict()

    def head(self) -> Q:
        return next(iter(self.sessions.values()))[0]

    def add(self, item: Q) -> None:
        """Behind what arrived before it: one that comes back keeps its age."""
        queue = self.sessions.setdefault(item.session, deque())
        place = len(queue)
        while place and queue[place - 1].arrived > item.arrived:
            place -= 1
        queue.insert(place, item)

    def pop(self) -> Q:
        session, queue = next(iter(self.sessions.items()))
        item = queue.popleft()
        if queue:
            self.sessions.move_to_end(session)
        else:
            del self.sessions[session]
        return item

    def remove(self, item: Q) -> bool:
        queue = self.sessions.get(item.session)
        if queue is None or item not in queue:
            return False
        queue.remove(item)
        if not queue:
            del self.sessions[item.session]
        return True


class FairQueue(Generic[Q]):
    """The waiters of one model."""

    def __init__(self) -> None:
        self._levels: dict[int, OrderedDict[str, _Caller[Q]]] = {}
        self._credit: OrderedDict[str, float] = OrderedDict()
        self._arrivals = Arrivals()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Q]:
        for callers in self._levels.values():
            for caller in callers.values():
                for queue in caller.sessions.values():
                    yield from queue

    @property
    def priority(self) -> int:
        """The highest that waits."""
        return max(self._levels)

    def oldest(self) -> float:
        """Arrival of the one that waits longest."""
        return self._arrivals.oldest()

    def push(self, item: Q) -> None:
        callers = self._levels.setdefault(item.priority, OrderedDict())
        if item.caller not in callers:
            callers[item.caller] = _Caller()
            self._credit.setdefault(item.caller, 0.0)
        callers[item.caller].add(item)
        self._arrivals.add(item.arrived)
        self._size += 1

    def pop(self) -> Q:
        """The next in turn. Callers in credit go round; when none is, time passes for all of them alike."""
        callers = self._levels[max(self._levels)]
        while True:
            for _ in range(len(callers)):
                name = next(iter(callers))
                if self._credit[name] >= 0:
                    return self._serve(callers, name)
                callers.move_to_end(name)
            rounds = min(-self._credit[name] for name in callers) / QUANTUM
            for name in callers:
                self._credit[name] += QUANTUM * max(1.0, rounds)

    def _serve(self, callers: OrderedDict[str, _Caller[Q]], name: str) -> Q:
        caller = callers[name]
        item = caller.pop()
        self._arrivals.remove(item.arrived)
        self._size -= 1
        self._charge(name, item.tokens)
        self._settle(callers, name, item.priority)
        return item

    def remove(self, item: Q) -> bool:
        """One that left. False: it was not there."""
        callers = self._levels.get(item.priority)
        caller = callers.get(item.caller) if callers else None
        if callers is None or caller is None or not caller.remove(item):
            return False
        self._arrivals.remove(item.arrived)
        self._size -= 1
        self._settle(callers, item.caller, item.priority)
        return True

    def charge(self, caller: str, tokens: float) -> None:
        """Correct an estimate by what a request really took; negative gives back."""
        if caller in self._credit:
            self._charge(caller, tokens)

    def _charge(self, caller: str, tokens: float) -> None:
        self._credit[caller] = min(QUANTUM, max(-DEBT, self._credit[caller] - tokens))

    def _settle(self, callers: OrderedDict[str, _Caller[Q]], name: str, priority: int) -> None:
        """To the end of its round, or out when nothing of it waits; silence earns no credit."""
        if callers[name].sessions:
            callers.move_to_end(name)
            return
        del callers[name]
        self._credit[name] = min(self._credit[name], 0.0)
        self._credit.move_to_end(name)
        if len(self._credit) > REMEMBERED:
            waiting = {caller for level in self._levels.values() for caller in level}
            self._credit.pop(next(c for c in self._credit if c not in waiting))
        if not callers:
            del self._levels[priority]

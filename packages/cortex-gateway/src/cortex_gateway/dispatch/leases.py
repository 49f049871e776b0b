"""Leases, and what they taught of each replica: how many are held, how fast it answers, when it failed or was full."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from msgspec import structs

from cortex_core.fleet import Fleet, Neuron, Replica
from cortex_gateway.dispatch.waiting import Want
from cortex_gateway.policy.breaker import Breaker, after_failure, state
from cortex_gateway.policy.picture import Key
from cortex_gateway.policy.placement import Candidate

if TYPE_CHECKING:
    from cortex_gateway.dispatch.dispatcher import Dispatcher

PAUSE_S, PAUSE_MAX_S = 0.1, 5.0  # after a refusal, doubled with each further one
SMOOTH = 0.2  # weight of the newest sample in a moving average


class Lease:
    """A request's hold on a replica, for as long as the block lasts: `with await dispatcher.lease(want) as lease`."""

    __slots__ = (
        "_books",
        "_dispatcher",
        "cold",
        "considered",
        "key",
        "neuron",
        "replica",
        "since",
        "want",
    )

    neuron: Neuron
    replica: Replica
    key: Key

    def __init__(self, dispatcher: Dispatcher, books: Leases, want: Want) -> None:
        self._dispatcher = dispatcher
        self._books = books
        self.want = want
        self.cold = False  # it waited for a load
        self.considered: tuple[Candidate, ...] = ()  # by the swap that was made for it

    @property
    def waited_s(self) -> float:
        return self.since - self.want.arrived

    def begin(self, neuron: Neuron, replica: Replica, now: float) -> None:
        self.neuron, self.replica, self.key = neuron, replica, (neuron.name, replica.id)
        self.since = now

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._dispatcher.release(self)

    def succeeded(self, *, first_token_s: float = 0.0, tokens: int = 0) -> None:
        """The replica did its work: what it took, for its pace and for the caller's fair share."""
        self._books.succeeded(self.key, self.replica, first_token_s)
        self._dispatcher.took(self, tokens)

    def failed(self) -> None:
        """The replica failed by its own fault: a 5xx, or a broken connection. Never for a client's mistake."""
        self._books.failed(self.key)


class Leases:
    """The books of one gateway, by (neuron, replica id). Decisions read its mappings and never write them."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.held: dict[Key, int] = {}
        self.used_at: dict[Key, float] = {}  # when the last lease ended
        self.paused: dict[Key, float] = {}  # (neuron, replica id or model) → not before
        self.caps: dict[Key, int] = {}  # that a replica took when it last said that it was full
        self.breakers: dict[Key, Breaker] = {}
        self.pace_s: dict[Key, float] = {}  # to the first token, lately
        self.fell_at: dict[Key, float] = {}  # when the engine died that is not back yet
        self.held_s: dict[str, float] = {}  # model → how long a lease is held, lately
        self._refusals: dict[Key, int] = {}  # in a row, of a replica or a model
        self._clock = clock

    def take(self, key: Key) -> bool:
        """Whether it is the first there."""
        held = self.held[key] = self.held.get(key, 0) + 1
        breaker = self.breakers.get(key)
        if breaker is not None and state(breaker, self._clock()) == "probe":
            self.breakers[key] = structs.replace(breaker, probing=True)
        return held == 1

    def give_back(self, key: Key, now: float) -> bool:
        """Whether it was the last there."""
        self.used_at[key] = now
        left = self.held.get(key, 0) - 1
        if left > 0:
            self.held[key] = left
            return False
        self.held.pop(key, None)
        return True

    def lasted(self, model: str, seconds: float) -> None:
        self.held_s[model] = _smoothed(self.held_s.get(model), seconds)

    def succeeded(self, key: Key, replica: Replica, first_token_s: float) -> None:
        self.breakers.pop(key, None)
        self.forgive(key)
        if key in self.caps:
            self.caps[key] += 1
            if self.caps[key] >= replica.max_in_flight + replica.max_queue_depth:
                del self.caps[key]
        if first_token_s > 0:
            self.pace_s[key] = _smoothed(self.pace_s.get(key), first_token_s)

    def failed(self, key: Key) -> None:
        self.breakers[key] = after_failure(self.breakers.get(key), self._clock())

    def full(self, key: Key) -> None:
        """It takes no more than it has; one goes on asking, or nobody would ever learn more."""
        self.caps[key] = max(1, self.held.get(key, 0))

    def pause(self, key: Key, seconds: float) -> float:
        """For how long: where nobody says, the longer the more often in a row it refused."""
        if not seconds:
            times = self._refusals[key] = self._refusals.get(key, 0) + 1
            seconds = float(min(PAUSE_S * 2 ** (times - 1), PAUSE_MAX_S))
        self.paused[key] = self._clock() + seconds
        return seconds

    def forgive(self, key: Key) -> None:
        self._refusals.pop(key, None)

    def forget_pauses(self, now: float) -> None:
        self.paused = {key: until for key, until in self.paused.items() if until > now}

    def forget_the_gone(self, fleet: Fleet) -> None:
        """Replicas' ids are never used twice, so what is known of one that went is of no use."""
        here = {(neuron.name, replica.id) for neuron, replica in fleet.replicas()}
        books: tuple[dict[Key, Any], ...] = (self.used_at, self.caps, self.breakers, self.pace_s, self.fell_at)
        for book in books:
            for key in [key for key in book if key not in here and key not in self.held]:
                del book[key]


def _smoothed(before: float | None, sample: float) -> float:
    return sample if before is None else before + SMOOTH * (sample - before)

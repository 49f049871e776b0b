"""Who leaves: of the replicas on a device, those whose going makes room at the least cost."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from cortex_core.fleet import Device, Neuron, Profile, Replica, State

if TYPE_CHECKING:
    from cortex_gateway.policy.picture import Picture

Strategy = Literal["cost", "lru", "priority"]

EVICTABLE = frozenset({State.READY, State.SLEEPING})
ENUMERATE_AT_MOST = 12
"""Replicas on one device whose sets are all tried (4,096 of them); beyond that greedily, per megabyte."""
ITS_TURN = "its turn"
"""Why one stays, when that ends by time alone."""
PRIORITY_STEP = 1e9
"""A step of residency priority outweighs any age, in seconds."""
LOAD_MB_PER_S = 1000.0
"""What a load is taken to run at where none was measured."""


class Leaver(Struct, frozen=True, kw_only=True):
    """A replica that may be let go, and what its going gives and costs."""

    replica: Replica
    freed_mb: int
    cost_s: float  # expected seconds to bring it back: uses x load_s
    idle_s: float
    priority: int  # of residency


def is_pinned(picture: Picture, neuron: Neuron, replica: Replica) -> bool:
    """By an operator's word, which the neuron keeps, or else by the catalogue."""
    if replica.pinned:
        return True
    profile = picture.fleet.profiles.get(replica.model)
    return neuron.pins.get(replica.model, profile is not None and neuron.name in profile.pinned_on)


def may_leave(picture: Picture, neuron: Neuron, replica: Replica) -> str:
    """Empty when it may be let go at once, else why not, for people."""
    stays = must_stay(picture, neuron, replica)
    return stays or ("" if picture.is_idle(neuron, replica) else "busy")


def must_stay(picture: Picture, neuron: Neuron, replica: Replica) -> str:
    """Empty when it may be let go, once its requests have ended."""
    if is_pinned(picture, neuron, replica):
        return "pinned"
    if (neuron.name, replica.id) in picture.condemned:
        return "already leaving"
    if replica.state not in EVICTABLE:
        return replica.state
    if picture.leases.get((neuron.name, replica.id)) and not (replica.in_flight or replica.queue):
        return "its requests are on their way"  # a load could overtake them
    if replica.evictable_in_s - max(0.0, picture.now - neuron.at) > 0:
        return ITS_TURN
    return ""


def leaver(picture: Picture, neuron: Neuron, device: Device, replica: Replica) -> Leaver:
    profile = picture.fleet.profiles.get(replica.model)
    return Leaver(
        replica=replica,
        freed_mb=replica.memory_on(device.id),
        cost_s=return_cost_s(neuron, replica),
        idle_s=picture.idle_s(neuron, replica),
        priority=profile.priority if profile is not None else 0,
    )


def return_cost_s(neuron: Neuron, replica: Replica) -> float:
    """What letting it go is expected to cost later: how often it is used times how long its load takes, or its waking
    where it has slept before: that is then how it leaves."""
    known = neuron.known.get((replica.model, replica.digest))
    load_s = replica.load_s or (known.load_s if known else 0.0)
    if known is not None and known.wake_s and replica.state is State.READY:
        load_s = known.wake_s
    if not load_s:
        load_s = sum(share.memory_mb for share in replica.devices) / LOAD_MB_PER_S
    return load_s * (known.uses if known else 0.0)


def price(picture: Picture, neuron: Neuron, replica: Replica) -> float:
    """What letting it go is held against a place, by the strategy: less is better, and time alone changes nothing."""
    if picture.strategy == "cost":
        return return_cost_s(neuron, replica)
    used_at = picture.now - picture.idle_s(neuron, replica)
    if picture.strategy == "lru":
        return used_at
    profile = picture.fleet.profiles.get(replica.model)
    return (profile.priority if profile is not None else 0) * PRIORITY_STEP + used_at


def together(strategy: Strategy, prices: Collection[float]) -> float:
    """The price of several: costs add up; by age or priority the dearest of them decides."""
    return sum(prices) if strategy == "cost" else max(prices, default=0.0)


def choose(
    strategy: Strategy, leavers: Iterable[Leaver], missing_mb: int, incoming: Profile | None = None
) -> tuple[Leaver, ...] | None:
    """The replicas that go, or None when all of them together would not free enough.

    `cost`: the set with the least cost; the fewest, then the oldest, among equals.
    `lru`: the longest idle first. `priority`: the lowest residency priority first, never one above the incoming.
    """
    useful = [entry for entry in leavers if entry.freed_mb > 0]
    if strategy == "priority" and incoming is not None:
        useful = [entry for entry in useful if entry.priority <= incoming.priority]
    if sum(entry.freed_mb for entry in useful) < missing_mb:
        return None
    if strategy == "cost":
        if len(useful) <= ENUMERATE_AT_MOST:
            return _cheapest(useful, missing_mb)
        # GreedyDual-Size (Cao & Irani 1997) without its clock: the estimate of uses decays by itself.
        return _greedy(useful, missing_mb, lambda e: (e.cost_s / e.freed_mb, -e.idle_s))
    if strategy == "priority":
        return _greedy(useful, missing_mb, lambda e: (e.priority, -e.idle_s))
    return _greedy(useful, missing_mb, lambda e: (0.0, -e.idle_s))


def _cheapest(leavers: Sequence[Leaver], missing_mb: int) -> tuple[Leaver, ...]:
    best: tuple[tuple[float, int, float], tuple[Leaver, ...]] | None = None
    for size in range(1, len(leavers) + 1):
        for group in combinations(leavers, size):
            if sum(entry.freed_mb for entry in group) < missing_mb:
                continue
            rank = (sum(entry.cost_s for entry in group), size, -min(entry.idle_s for entry in group))
            if best is None or rank < best[0]:
                best = (rank, group)
    assert best is not None  # all together suffice
    return best[1]


def _greedy(
    leavers: Sequence[Leaver], missing_mb: int, rank: Callable[[Leaver], tuple[float, float]]
) -> tuple[Leaver, ...]:
    """In order of rank until it suffices; one that a later choice made needless is spared."""
    chosen: list[Leaver] = []
    freed_mb = 0
    for entry in sorted(leavers, key=lambda e: (*rank(e), e.replica.id)):
        if freed_mb >= missing_mb:
            break
        chosen.append(entry)
        freed_mb += entry.freed_mb
    for entry in tuple(chosen):
        if freed_mb - entry.freed_mb >= missing_mb:
            chosen.remove(entry)
            freed_mb -= entry.freed_mb
    return tuple(chosen)

"""Who leaves: each strategy's choice, and what no choice may do."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from cortex_core.fleet import State
from cortex_gateway.policy.eviction import ENUMERATE_AT_MOST, Leaver, Strategy, choose, leaver, may_leave, return_cost_s
from cortex_gateway.policy.picture import Intent
from tests.gateway.policy.fleets import card, known, neuron, picture, profile, replica


def one(name: str, freed_mb: int, *, cost_s: float = 0.0, idle_s: float = 0.0, priority: int = 100) -> Leaver:
    return Leaver(replica=replica(name), freed_mb=freed_mb, cost_s=cost_s, idle_s=idle_s, priority=priority)


def names(chosen: tuple[Leaver, ...] | None) -> str:
    return "none" if chosen is None else " ".join(sorted(entry.replica.model for entry in chosen))


CHOICES: list[tuple[str, Strategy, list[Leaver], int, str]] = [
    ("the cheapest set", "cost", [one("a", 8, cost_s=9), one("b", 4, cost_s=2), one("c", 4, cost_s=3)], 8, "b c"),
    ("the fewest among equals", "cost", [one("a", 8), one("b", 4), one("c", 4)], 8, "a"),
    ("the oldest among equals", "cost", [one("a", 8, idle_s=1), one("b", 8, idle_s=9)], 8, "b"),
    ("not enough", "cost", [one("a", 4), one("b", 3)], 8, "none"),
    ("nothing to give", "cost", [one("a", 0), one("b", 8)], 8, "b"),
    ("the longest idle", "lru", [one("a", 8, idle_s=1), one("b", 8, idle_s=9, cost_s=99)], 8, "b"),
    ("a needless one is spared", "lru", [one("a", 2, idle_s=9), one("b", 8, idle_s=1)], 8, "b"),
    ("the lowest first", "priority", [one("a", 8, priority=50), one("b", 8, priority=60)], 8, "a"),
    ("never a higher one", "priority", [one("a", 8, priority=101)], 8, "none"),
    ("an equal one", "priority", [one("a", 8, priority=100)], 8, "a"),
]


@pytest.mark.parametrize(
    ("strategy", "leavers", "missing", "goes"), [c[1:] for c in CHOICES], ids=[c[0] for c in CHOICES]
)
def test_choice(strategy: Strategy, leavers: list[Leaver], missing: int, goes: str) -> None:
    assert names(choose(strategy, leavers, missing, profile(residency_priority=100))) == goes


leavers_ = st.lists(
    st.builds(
        lambda mb, cost, idle, priority: (mb, float(cost), float(idle), priority),
        st.integers(0, 12),
        st.integers(0, 5),
        st.integers(0, 5),
        st.sampled_from([50, 100, 200]),
    ),
    max_size=ENUMERATE_AT_MOST + 3,
)


@given(leavers_, st.integers(1, 40), st.sampled_from(["cost", "lru", "priority"]))
def test_it_is_enough_and_nobody_leaves_needlessly(
    entries: list[tuple[int, float, float, int]], missing: int, strategy: Strategy
) -> None:
    leavers = [one(f"r{n}", mb, cost_s=c, idle_s=i, priority=p) for n, (mb, c, i, p) in enumerate(entries)]
    incoming = profile(residency_priority=100)
    allowed = [e for e in leavers if strategy != "priority" or e.priority <= 100]
    chosen = choose(strategy, leavers, missing, incoming)
    if chosen is None:
        assert sum(entry.freed_mb for entry in allowed) < missing
        return
    freed = sum(entry.freed_mb for entry in chosen)
    assert freed >= missing
    assert all(freed - entry.freed_mb < missing or entry.cost_s == 0 for entry in chosen)
    assert set(map(id, chosen)) <= set(map(id, allowed))


@given(leavers_.filter(lambda entries: len(entries) <= 8), st.integers(1, 40))
def test_cost_is_the_least_of_all_sets(entries: list[tuple[int, float, float, int]], missing: int) -> None:
    leavers = [one(f"r{n}", mb, cost_s=c, idle_s=i) for n, (mb, c, i, _) in enumerate(entries)]
    enough = [
        sum(e.cost_s for e in group)
        for size in range(1, len(leavers) + 1)
        for group in combinations(leavers, size)
        if sum(e.freed_mb for e in group) >= missing
    ]
    chosen = choose("cost", leavers, missing)
    assert (chosen is None) == (not enough)
    if chosen is not None:
        assert sum(entry.cost_s for entry in chosen) == min(enough)


STAYS = [
    ({"pinned": True}, {}, "pinned"),
    ({"state": State.LOADING}, {}, "loading"),
    ({"state": State.DRAINING}, {}, "draining"),
    ({"in_flight": 1}, {}, "busy"),
    ({"queue": 1}, {}, "busy"),
    ({"evictable_in_s": 3.0}, {}, "its turn"),
    ({}, {"leases": {("n1", "m2"): 1}}, "its requests are on their way"),
    ({"in_flight": 1}, {"leases": {("n1", "m2"): 2}}, "busy"),
    ({}, {}, ""),
    ({"state": State.SLEEPING}, {}, ""),
]


@pytest.mark.parametrize(("fields", "seen", "why"), STAYS)
def test_why_one_stays(fields: dict[str, Any], seen: dict[str, Any], why: str) -> None:
    resident = replica("m2", **fields)
    assert may_leave(picture(neuron("n1", resident), **seen), neuron("n1", resident), resident) == why


def test_one_that_is_already_leaving_is_not_chosen_twice() -> None:
    resident = replica("m2")
    swap = Intent(operation_id="o", model="m1", neuron="n1", devices=(), victims=("m2",))
    assert may_leave(picture(neuron("n1", resident), intents={"o": swap}), neuron("n1"), resident) == "already leaving"


def test_what_bringing_it_back_would_cost() -> None:
    """Uses times load: measured, else remembered, else its size at 1 GB/s; never used is free."""
    assert return_cost_s(neuron(known=(known("m2", uses=3),)), replica("m2", load_s=4.0)) == 12.0
    assert return_cost_s(neuron(known=(known("m2", uses=3, load_s=5.0),)), replica("m2", load_s=0.0)) == 15.0
    assert return_cost_s(neuron(known=(known("m2", uses=3, load_s=0.0),)), replica("m2", 8000, load_s=0.0)) == 24.0
    assert return_cost_s(neuron(), replica("m2")) == 0.0
    slept = structs.replace(known("m2", uses=3), wake_s=0.5)
    assert return_cost_s(neuron(known=(slept,)), replica("m2", load_s=4.0)) == 1.5, "it will sleep again"
    assert return_cost_s(neuron(known=(slept,)), replica("m2", load_s=4.0, state=State.SLEEPING)) == 12.0, "it is gone"


def test_idle_is_counted_from_the_last_end_anywhere() -> None:
    resident = replica("m2", idle_s=50.0)
    where = neuron("n1", resident, at=100.0)
    seen = picture(where, now=110.0)
    assert leaver(seen, where, card(), resident).idle_s == 60.0
    seen = picture(where, now=110.0, used_at={("n1", "m2"): 108.0})
    assert leaver(seen, where, card(), resident).idle_s == 2.0

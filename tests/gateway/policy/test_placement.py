"""Where a model may go, best first, and why not elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex_core.fleet import Checkpoint, Failure, Neuron, Replica, Share, State
from cortex_gateway.policy.eviction import Strategy
from cortex_gateway.policy.picture import Intent
from cortex_gateway.policy.placement import Candidate, candidates, first
from cortex_gateway.policy.survey import DRAIN, EVICT, FREE
from tests.gateway.policy.fleets import CARD_MB, card, known, neuron, picture, profile, replica


def best(*neurons: Neuron, **fields: Any) -> Candidate:
    return candidates(picture(*neurons, **fields), profile())[0]


sizes = st.integers(1000, 24_000)
residents = st.lists(st.tuples(sizes, st.booleans(), st.booleans(), st.sampled_from([0.0, 5.0])), max_size=5)


def asleep(holds_mb: int = 1000, **fields: Any) -> Replica:
    return replica("m1", holds_mb, state=State.SLEEPING, **fields)


# ---------------------------------------------------------------- the order

PREFERENCES = [
    ("room over eviction", neuron("n1", replica("m2")), neuron("n2"), "n2"),
    ("idle over busy", neuron("n1", replica("m2", in_flight=1)), neuron("n2", replica("m3")), "n2"),
    (
        "cheap over dear",
        neuron("n1", replica("m2"), known=(known("m2", uses=9),)),
        neuron("n2", replica("m3"), known=(known("m3", uses=1),)),
        "n2",
    ),
    ("one victim over two", neuron("n1", replica("m2", 8000), replica("m3", 8000)), neuron("n2", replica("m4")), "n2"),
    ("more room over less", neuron("n1", devices=(card(memory_mb=20_000),)), neuron("n2"), "n2"),
    ("asleep there over room", neuron("n1", asleep(), replica("m2", 8000)), neuron("n2"), "n1"),
    ("asleep there over room, even by eviction", neuron("n1", asleep(), replica("m2")), neuron("n2"), "n1"),
    ("up over down", neuron("n1", up=False), neuron("n2", replica("m2")), "n2"),
]


@pytest.mark.parametrize(("first", "second", "wins"), [p[1:] for p in PREFERENCES], ids=[p[0] for p in PREFERENCES])
def test_preference(first: Neuron, second: Neuron, wins: str) -> None:
    assert best(first, second).neuron == wins
    assert best(second, first).neuron == wins, "and not by its place in the list"


def test_by_lru_the_longest_idle_of_the_whole_fleet_goes_whatever_it_costs() -> None:
    used = neuron("n1", replica("m2", idle_s=5.0), known=(known("m2", uses=1),))
    old = neuron("n2", replica("m3", idle_s=60.0), known=(known("m3", uses=9),))
    assert best(used, old, strategy="lru").neuron == "n2"
    assert best(used, old, strategy="cost").neuron == "n1"
    there = picture(used, old, strategy="lru")
    assert first(there, profile(), there.fleet.neurons.values())[0].neuron == "n2"


def test_where_it_is_pinned_comes_first_even_by_eviction() -> None:
    pinned = profile(pinned_on=("n1",))
    assert candidates(picture(neuron("n1", replica("m2")), neuron("n2")), pinned)[0].neuron == "n1"


def test_equals_are_told_apart_alike_by_every_gateway() -> None:
    """By a hash of model and neuron, so that two gateways agree and different models spread."""
    names = [f"n{number}" for number in range(1, 9)]
    there = [neuron(name) for name in names]
    back = list(reversed(there))
    chosen = {model: candidates(picture(*there), profile(model))[0].neuron for model in map("m{}".format, range(40))}
    assert chosen == {model: candidates(picture(*back), profile(model))[0].neuron for model in chosen}
    assert len(set(chosen.values())) >= 6


# ---------------------------------------------------------------- what it costs

TIERS = [
    (neuron(), FREE, ()),
    (neuron("n1", replica("m2", 8000)), FREE, ()),
    (neuron("n1", replica("m2")), EVICT, ("m2",)),
    (neuron("n1", replica("m2", in_flight=1)), DRAIN, ("m2",)),
    (neuron("n1", replica("m2", 8000), replica("m3", 12_000)), EVICT, ("m3",)),
    (neuron("n1", replica("m2", 8000, in_flight=1), replica("m3", 12_000)), EVICT, ("m3",)),
    (neuron("n1", replica("m2", 6000, in_flight=1), replica("m3", 6000), replica("m4", 6000)), EVICT, ("m3", "m4")),
]


@pytest.mark.parametrize(("where", "tier", "victims"), TIERS)
def test_how_dear_a_place_is(where: Neuron, tier: int, victims: tuple[str, ...]) -> None:
    found = best(where)
    assert (found.now, found.tier) == (True, tier)
    assert tuple(sorted(victim.model for victim in found.victims)) == victims
    assert found.shares == (Share("cuda:0", 16_000),)


def test_without_drain_nothing_busy_is_asked_to_leave() -> None:
    seen = picture(neuron("n1", replica("m2", in_flight=1)))
    assert first(seen, profile(), seen.fleet.neurons.values(), most=EVICT) == ()
    [found] = first(seen, profile(), seen.fleet.neurons.values(), most=DRAIN)
    assert found.tier == DRAIN


@pytest.mark.parametrize("strategy", ["cost", "lru", "priority"])
def test_of_many_neurons_only_those_that_could_be_best_are_looked_at(strategy: Strategy) -> None:
    """Three hundred, all full: what they could be is told by a few numbers each."""
    alike = [neuron(f"n{n}", replica("m2")) for n in range(300)]
    assert len(first(picture(*alike, strategy=strategy), profile(), alike)) == 1


def test_of_many_neurons_only_the_cheapest_is_looked_at() -> None:
    used = [neuron(f"n{n}", replica("m2"), known=(known("m2", uses=n),)) for n in range(300)]
    assert [c.neuron for c in first(picture(*used), profile(), used)] == ["n0"]


# ---------------------------------------------------------------- what sleeps


def test_what_sleeps_wakes_where_it_is_and_nobody_leaves_without_need() -> None:
    """Least of all itself: what it keeps of its memory is its own."""
    found = best(neuron("n1", asleep(9000, on=(1,)), replica("m2", 8000, on=(1,)), devices=(card(0), card(1))))
    assert found.wakes
    assert found.reason == "asleep there, fits free"
    assert [share.id for share in found.shares] == ["cuda:1"]
    assert found.victims == ()


def test_what_sleeps_where_it_cannot_wake_is_loaded_beside_it() -> None:
    busy = replica("m2", 23_000, on=(1,), pinned=True)
    found = best(neuron("n1", asleep(on=(1,)), busy, devices=(card(0), card(1))))
    assert (found.wakes, [share.id for share in found.shares]) == (False, ["cuda:0"])


def test_over_several_devices_it_wakes_on_its_own() -> None:
    three = neuron("n1", asleep(500, on=(1, 2)), devices=(card(0), card(1), card(2)))
    found = candidates(picture(three), profile("m1", 32_000, min_devices=2))[0]
    assert (found.wakes, [share.id for share in found.shares]) == (True, ["cuda:1", "cuda:2"])


@given(st.lists(st.tuples(residents, st.booleans()), min_size=1, max_size=4), st.integers(2000, 24_000))
def test_with_sleepers_too_the_quick_way_finds_the_same(
    fleet: list[tuple[list[tuple[int, bool, bool, float]], bool]], need_mb: int
) -> None:
    neurons = []
    for index, (entries, sleeps) in enumerate(fleet):
        replicas = [asleep(500, id=f"asleep{index}")] if sleeps else []
        left = CARD_MB - 500
        for number, (size, busy, pinned, turn_s) in enumerate(entries):
            if size <= left:
                left -= size
                name = f"r{index}{number}"
                replicas.append(replica(name, size, in_flight=int(busy), pinned=pinned, evictable_in_s=turn_s))
        neurons.append(neuron(f"n{index}", *replicas))
    wanted, seen = profile("m1", need_mb), picture(*neurons)
    assert first(seen, wanted, neurons)[:1] == tuple(c for c in candidates(seen, wanted) if c.now)[:1]


# ---------------------------------------------------------------- why not

NOT_NOW = [
    ("down", {"up": False, "problem": "no route"}, "no route"),
    ("never heard of", {"instance_id": "", "up": False}, "not heard of yet"),
    ("cordoned", {"cordoned": True}, "cordoned"),
    (
        "failed here",
        {"failures": (Failure(model="m1", digest=profile().digest, scope="device", code="oom", retry_in_s=9.0),)},
        "failed here (oom), tried again in 9 s",
    ),
]


@pytest.mark.parametrize(("fields", "reason"), [n[1:] for n in NOT_NOW], ids=[n[0] for n in NOT_NOW])
def test_not_now(fields: dict[str, Any], reason: str) -> None:
    found = best(neuron("n1", **fields))
    assert (found.possible, found.now, found.reason) == (True, False, reason)


NEVER = [
    ({"devices": (card(memory_mb=8000),)}, "needs 16000 MB, the largest device has 8000 MB"),
    ({"simulated": False}, "no checkpoint 'm1' in its model folder"),
    ({"checkpoints": (Checkpoint(name="m1", problem="unknown architecture"),)}, "unknown architecture"),
    ({"devices": ()}, "no 1 like devices"),
]


@pytest.mark.parametrize(("fields", "reason"), NEVER)
def test_never(fields: dict[str, Any], reason: str) -> None:
    found = best(neuron("n1", **fields))
    assert (found.possible, found.now, found.reason) == (False, False, reason)


def test_what_is_pinned_makes_no_room_ever() -> None:
    found = best(neuron("n1", replica("m2", pinned=True)))
    assert not found.possible
    assert found.reason == "needs 16000 MB, and pinned replicas hold it"


def test_an_operators_word_on_a_pin_wins_over_the_catalogue() -> None:
    pinned = profile("m2", pinned_on=("n1",))
    assert not best(neuron("n1", replica("m2")), profiles=[pinned]).possible
    assert best(neuron("n1", replica("m2"), pins={"m2": False}), profiles=[pinned]).now


def test_a_pause_after_a_refusal() -> None:
    assert not best(neuron(), paused={("n1", "m1"): 5.0}, now=4.0).now
    assert best(neuron(), paused={("n1", "m1"): 5.0}, now=5.0).now


def test_a_turn_that_has_not_ended_counts_from_the_report() -> None:
    where = neuron("n1", replica("m2", evictable_in_s=5.0), at=100.0)
    assert not best(where, now=104.0).now
    assert best(where, now=105.0).now


def test_one_swap_at_a_time_for_a_device() -> None:
    under_way = Intent(operation_id="o", model="m3", neuron="n1", devices=(Share("cuda:0", 4000),))
    assert not best(neuron(), intents={"o": under_way}).now
    assert not best(neuron("n1", replica("m3", 4000, state=State.LOADING))).now
    assert not best(neuron("n1", replica("m3", 4000, state=State.UNLOADING))).now


def test_a_verdict_tells_each_device_in_megabytes() -> None:
    [view] = best(neuron("n1", replica("m2", in_flight=1), replica("m3", 6000, pinned=True), up=False)).devices
    assert (view.memory_mb, view.free_mb) == (CARD_MB, 2000)
    assert view.kept == (("m2", "busy"), ("m3", "pinned"))


# ---------------------------------------------------------------- several devices


def test_tensor_parallel_runs_over_likes_only() -> None:
    two = profile("m1", 32_000, min_devices=2)
    alike = neuron("n1", devices=(card(0), card(1)))
    unlike = neuron("n2", devices=(card(0), card(1, name="Other")))
    found = candidates(picture(alike, unlike), two)
    assert [(c.neuron, c.possible) for c in found] == [("n1", True), ("n2", False)]
    assert found[0].shares == (Share("cuda:0", 16_000), Share("cuda:1", 16_000))


def test_the_emptiest_devices_of_many() -> None:
    where = neuron(
        "n1", replica("m2", 20_000, on=(0,)), replica("m3", 2000, on=(1,)), devices=(card(0), card(1), card(2))
    )
    assert [s.id for s in candidates(picture(where), profile("m1", 32_000, min_devices=2))[0].shares] == [
        "cuda:2",
        "cuda:1",
    ]


def test_a_floor_for_each_device() -> None:
    where = neuron("n1", devices=(card(0, 8000), card(1, 24_000)))
    assert [share.id for share in best(where).shares] == ["cuda:1"]
    [found] = candidates(picture(neuron("n1", devices=(card(0, 8000),))), profile("m1", 4000, min_device_vram_mb=9000))
    assert found.reason == "no 1 like devices of at least 9000 MB"


# ---------------------------------------------------------------- properties


@given(
    st.lists(residents, min_size=1, max_size=4),
    st.integers(1000, 30_000),
    st.sampled_from([FREE, EVICT, DRAIN]),
    st.sampled_from(["cost", "lru", "priority"]),
)
def test_what_is_decided_fits_and_takes_nobody_it_must_not(
    fleet: list[list[tuple[int, bool, bool, float]]], need_mb: int, most: int, strategy: Strategy
) -> None:
    """Shares fit once the victims left; no victim is pinned or in its turn, and none is needless."""
    neurons = []
    for index, entries in enumerate(fleet):
        left, replicas = CARD_MB, []
        for number, (size, busy, pinned, turn_s) in enumerate(entries):
            if size > left:
                continue
            left -= size
            name = f"r{index}{number}"
            state: dict[str, Any] = {"in_flight": int(busy), "pinned": pinned, "evictable_in_s": turn_s}
            replicas.append(replica(name, size, idle_s=float(size % 7), **state))
        used = [known(entry.model, uses=float(len(entry.model) + entry.memory_on("cuda:0") % 3)) for entry in replicas]
        neurons.append(neuron(f"n{index}", *replicas, known=used))
    wanted = profile("m1", need_mb)
    seen = picture(*neurons, strategy=strategy)
    every = candidates(seen, wanted)
    assert sorted(c.neuron for c in every) == sorted(n.name for n in neurons)
    assert all(candidate.now or candidate.reason for candidate in every)
    looked = first(seen, wanted, neurons, most=most)
    assert looked[:1] == tuple(c for c in every if c.now and c.tier <= most)[:1], "quickly found, and no other"
    for candidate in (*looked, *(c for c in every if c.now)):
        where = seen.fleet.neurons[candidate.neuron]
        freed_mb = sum(victim.memory_on("cuda:0") for victim in candidate.victims)
        assert where.free_mb(where.devices[0]) + freed_mb >= need_mb
        for victim in candidate.victims:
            assert not victim.pinned
            assert victim.evictable_in_s == 0
            assert candidate.tier == DRAIN or not victim.in_flight
            assert where.free_mb(where.devices[0]) + freed_mb - victim.memory_on("cuda:0") < need_mb


@given(st.lists(st.integers(0, 20_000), min_size=6, max_size=6), st.booleans(), st.integers(2, 3))
def test_over_several_devices_the_quick_way_finds_the_same(held: list[int], busy: bool, wants: int) -> None:
    neurons = [
        neuron(
            name,
            *(
                replica(f"{name}{n}", mb, on=(n,), in_flight=int(busy and n == 1))
                for n, mb in enumerate(held[at : at + 3])
            ),
            devices=tuple(card(number) for number in range(3)),
        )
        for name, at in (("n1", 0), ("n2", 3))
    ]
    wanted, seen = profile("m1", 12_000 * wants, min_devices=wants), picture(*neurons)
    assert first(seen, wanted, neurons)[:1] == tuple(c for c in candidates(seen, wanted) if c.now)[:1]

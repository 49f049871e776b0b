"""Who is served, which swap starts, who is refused: all that is decided at one moment."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from cortex_core.fleet import Demand, Failure, Replicas, State
from cortex_gateway.policy import turns
from cortex_gateway.policy.picture import Intent, Picture
from cortex_gateway.policy.refuse import Refuse
from cortex_gateway.policy.schedule import (
    NEURON_PATIENCE_S,
    Action,
    Backlog,
    Serve,
    Swap,
    hosts,
    in_turn,
    pick,
    schedule,
)
from tests.gateway.policy.fleets import card, known, neuron, picture, profile, replica


def waits(model: str = "m1", waiters: int = 1, oldest: float = 0.0, **fields: Any) -> Backlog:
    return Backlog(model=model, waiters=waiters, oldest=oldest, **fields)


def brief(actions: list[Action]) -> list[str]:
    told = []
    for action in actions:
        match action:
            case Serve():
                told.append(f"serve {action.count} {action.model}")
            case Swap():
                leaves = "".join(f" -{victim.model}" for victim in action.candidate.victims)
                told.append(f"load {action.model} on {action.candidate.neuron}{leaves}")
            case Refuse():
                told.append(f"refuse {action.model}: {action.kind}")
    return told


PROFILES = [profile("m1"), profile("m2"), profile("m3", 4000), profile("huge", 99_000)]
LOADING = replica("m1", state=State.LOADING)
FAILED = Failure(model="m1", digest=profile().digest, scope="model", code="oom", retry_in_s=7.0)

RECOVERING = replica("m1", state=State.RECOVERING)
FELL = {("n1", "m1"): 0.0}  # its load takes 10 s

DECISIONS: list[tuple[str, Picture, list[Backlog], list[str]]] = [
    ("nobody waits", picture(neuron()), [], []),
    ("room", picture(neuron("n1", replica("m1"))), [waits(waiters=2)], ["serve 2 m1"]),
    ("less room than waiters", picture(neuron("n1", replica("m1"))), [waits(waiters=5)], ["serve 2 m1"]),
    ("a load", picture(neuron()), [waits(waiters=9)], ["load m1 on n1"]),
    ("a load under way is joined", picture(neuron("n1", LOADING), neuron("n2")), [waits()], []),
    ("one that recovers too", picture(neuron("n1", replica("m1", state=State.RECOVERING))), [waits()], []),
    ("a start after a death takes a load's time",
     picture(neuron("n1", RECOVERING), neuron("n2"), now=14.9, fell_at=FELL), [waits()], []),
    ("then there is another place", picture(neuron("n1", RECOVERING), neuron("n2"), now=15.1, fell_at=FELL),
     [waits()], ["load m1 on n2"]),
    ("of the two starts after it too", picture(neuron("n1", LOADING), neuron("n2"), now=15.1, fell_at=FELL),
     [waits()], ["load m1 on n2"]),
    ("on free memory only", picture(neuron("n1", RECOVERING), neuron("n2", replica("m2")), now=15.1, fell_at=FELL),
     [waits()], []),
    ("never beside itself", picture(neuron("n1", RECOVERING, devices=(card(0), card(1))), now=15.1, fell_at=FELL),
     [waits()], []),
    (
        "our own load, not yet reported",
        picture(neuron(), intents={"o": Intent(operation_id="o", model="m1", neuron="n1", devices=())}),
        [waits()],
        [],
    ),
    ("full is a home", picture(neuron("n1", replica("m1"), at=0), leases={("n1", "m1"): 2}), [waits()], []),
    ("on a cordoned neuron is none", picture(neuron("n1", replica("m1"), cordoned=True), neuron("n2")), [waits()],
     ["load m1 on n2"]),
    ("on one that is down is none", picture(neuron("n1", replica("m1"), up=False), neuron("n2")), [waits()],
     ["load m1 on n2"]),
    ("one that drains is none", picture(neuron("n1", replica("m1", state=State.DRAINING)), neuron("n2")), [waits()],
     ["load m1 on n2"]),
    ("eviction", picture(neuron("n1", replica("m2"))), [waits()], ["load m1 on n1 -m2"]),
    ("served, and so not evicted", picture(neuron("n1", replica("m2"))), [waits("m2"), waits("m1")], ["serve 1 m2"]),
    ("one swap for a device", picture(neuron()), [waits("m1"), waits("m2", oldest=1.0)], ["load m1 on n1"]),
    ("one swap for each of two", picture(neuron("n1"), neuron("n2", devices=(card(memory_mb=17_000),))),
     [waits("m1"), waits("m2", oldest=1.0)], ["load m1 on n1", "load m2 on n2"]),
    ("a ticket is demand", picture(neuron()), [waits(waiters=0, tickets=1)], ["load m1 on n1"]),
    ("it can never fit", picture(neuron("n1", replica("m2"))), [waits("huge")], ["refuse huge: model_cannot_fit"]),
    ("it failed", picture(neuron("n1", failures=(FAILED,)), neuron("n2")), [waits()], ["refuse m1: load_failed"]),
    ("unknown", picture(neuron()), [waits("nobody")], ["refuse nobody: model_not_found"]),
    ("no neuron at all", picture(), [waits()], ["refuse m1: no_neuron"]),
    ("all down, for a moment", picture(neuron(up=False), now=NEURON_PATIENCE_S - 1), [waits()], []),
    ("all down, for long", picture(neuron(up=False), now=NEURON_PATIENCE_S), [waits()], ["refuse m1: no_neuron"]),
    ("all cordoned", picture(neuron(cordoned=True), now=1000.0), [waits()], []),
]  # fmt: skip


@pytest.mark.parametrize(("seen", "backlogs", "decided"), [d[1:] for d in DECISIONS], ids=[d[0] for d in DECISIONS])
def test_decision(seen: Picture, backlogs: list[Backlog], decided: list[str]) -> None:
    fleet = picture(*seen.fleet.neurons.values(), profiles=PROFILES).fleet
    assert brief(schedule(structs.replace(seen, fleet=fleet), backlogs)) == decided


def test_a_failure_of_the_device_is_tried_once_elsewhere_and_drains_nobody() -> None:
    failed = Failure(model="m1", digest=profile().digest, scope="device", code="oom", retry_in_s=7.0)
    one = neuron("n1", failures=(failed,))
    assert brief(schedule(picture(one, neuron("n2"), profiles=PROFILES), [waits()])) == ["load m1 on n2"]
    busy = neuron("n2", replica("m2", in_flight=1))
    assert brief(schedule(picture(one, busy, profiles=PROFILES), [waits()])) == []
    two = neuron("n2", failures=(failed,))
    assert brief(schedule(picture(one, two, neuron("n3"), profiles=PROFILES), [waits()])) == ["refuse m1: load_failed"]


def test_a_failure_of_other_engine_options_forbids_nothing() -> None:
    other = Failure(model="m1", digest="other", scope="model", code="oom", retry_in_s=7.0)
    assert brief(schedule(picture(neuron(failures=(other,)), profiles=PROFILES), [waits()])) == ["load m1 on n1"]


def test_the_refusal_says_when_to_come_again() -> None:
    seen = picture(neuron(failures=(FAILED,), at=100.0), profiles=PROFILES, now=103.0)
    [refusal] = schedule(seen, [waits()])
    assert isinstance(refusal, Refuse)
    assert refusal.retry_after_s == 4.0


# ---------------------------------------------------------------- whose turn


def order(seen: Picture, *backlogs: Backlog) -> str:
    return " ".join(backlog.model for backlog in in_turn(seen, backlogs))


def test_the_oldest_first_and_before_it_the_higher_priority_and_before_that_the_overdue() -> None:
    seen = picture(neuron(), profiles=PROFILES, now=1000.0)
    assert order(seen, waits("m2", oldest=999.0), waits("m1", oldest=998.0)) == "m1 m2"
    assert order(seen, waits("m2", oldest=999.0, priority=9), waits("m1", oldest=998.0)) == "m2 m1"
    long_ago = 1000.0 - turns.overdue_s([16.0, 16.0]) - 1
    assert order(seen, waits("m2", oldest=999.0, priority=9), waits("m1", oldest=long_ago)) == "m1 m2"


def test_one_that_was_never_loaded_is_not_overdue_later_than_the_others() -> None:
    """Nothing is known of how long its load takes: that must not put it behind those that come round and round."""
    seen = picture(neuron(known=(known("m1", 1, load_s=1.0),)), profiles=PROFILES, now=1000.0)
    for age_s in (50.0, 100.0, 150.0, 400.0):
        assert order(seen, waits("m1", oldest=1000.0 - age_s), waits("m2", oldest=999.0 - age_s)) == "m2 m1"


def test_waiters_at_other_gateways_count_with_their_age() -> None:
    others = {"gw2": {"m2": Demand(3, 50.0)}, "gw1": {"m1": Demand(1, 500.0)}}
    seen = picture(neuron(demand=others, at=1000.0), profiles=PROFILES, now=1000.0, gateway="gw1")
    assert order(seen, waits("m1", oldest=990.0), waits("m2", oldest=999.0)) == "m2 m1", "our own post is no news"


@pytest.mark.parametrize(
    ("their_age_s", "ours", "decided"),
    [
        (50.0, ["m1"], ["load m2 on n1"]),
        (5.0, ["m1"], ["load m1 on n1"]),
        (50.0, [], []),
        (50.0, ["m3"], ["load m2 on n1", "load m3 on n2"]),
    ],
    ids=["theirs is older", "ours is older", "nothing of ours waits", "both have a place"],
)
def test_what_waits_elsewhere_has_its_turn_through_us(their_age_s: float, ours: list[str], decided: list[str]) -> None:
    """Else whoever hears first of each turn's end gives every turn to its own models."""
    here = neuron("n1", demand={"gw2": {"m2": Demand(1, their_age_s)}}, at=1000.0)
    seen = picture(here, neuron("n2", devices=(card(memory_mb=5000),)), profiles=PROFILES, now=1000.0, gateway="gw1")
    assert brief(schedule(seen, [waits(model, oldest=990.0) for model in ours])) == decided


def test_a_neuron_that_is_down_tells_of_nobody_who_waits() -> None:
    """Its last word would be demand for ever: the others' models would be loaded for nobody."""
    gone = neuron("n2", up=False, demand={"gw2": {"m2": Demand(1, 50.0)}}, at=1000.0)
    seen = picture(neuron("n1", at=1000.0), gone, profiles=PROFILES, now=1000.0, gateway="gw1")
    assert brief(schedule(seen, [waits("m1", oldest=990.0)])) == ["load m1 on n1"]


def test_what_came_to_another_gateway_just_now_is_left_to_it() -> None:
    here = neuron("n1", demand={"gw2": {"m2": Demand(1, 2.0)}}, at=1000.0)
    seen = picture(here, profiles=PROFILES, now=1000.0, gateway="gw1")
    assert brief(schedule(seen, [waits("m1", oldest=999.0)])) == ["load m1 on n1"]


# ---------------------------------------------------------------- a further replica


def test_another_replica_when_waiting_takes_longer_than_loading() -> None:
    several = profile("m1", replicas=Replicas(0, 2))
    here = neuron("n1", replica("m1", max_queue_depth=0), known=(known("m1", 1, load_s=10.0),))
    for held_s, decided in ((1.0, ["serve 2 m1"]), (10.0, ["serve 2 m1", "load m1 on n2"])):
        seen = picture(here, neuron("n2"), profiles=[several], held_s={"m1": held_s})
        assert brief(schedule(seen, [waits(waiters=8)])) == decided
    full = picture(here, neuron("n2", replica("m2")), profiles=[several], held_s={"m1": 10.0})
    assert brief(schedule(full, [waits(waiters=8)])) == ["serve 2 m1"], "nobody leaves for it"


# ---------------------------------------------------------------- which replica


def test_the_least_loaded_and_its_session_where_it_was() -> None:
    two = [neuron("n1", replica("m1", id="a", in_flight=1)), neuron("n2", replica("m1", id="b"))]
    chosen = pick(picture(*two), "m1")
    assert chosen is not None
    assert chosen[0].name == "n2"
    idle = picture(neuron("n1", replica("m1", id="a")), neuron("n2", replica("m1", id="b")))
    homes = {key: pick(idle, "m1", key) for key in map(str, range(20))}
    assert {found[0].name for found in homes.values() if found} == {"n1", "n2"}
    assert homes == {key: pick(idle, "m1", key) for key in homes}


@pytest.mark.parametrize(
    ("seconds", "picked"),
    [((1.0, 3.5), {"n1"}), ((3.5, 1.0), {"n2"}), ((1.0, 2.9), {"n1", "n2"}), ((0.001, 0.2), {"n1", "n2"})],
    ids=["slow", "slow, the other way", "slower, not by far", "a matter of milliseconds"],
)
def test_one_that_is_far_slower_than_its_sibling_is_passed_over(seconds: tuple[float, float], picked: set[str]) -> None:
    two = [neuron(name, replica("m1", max_in_flight=64)) for name in ("n1", "n2")]
    pace_s = {("n1", "m1"): seconds[0], ("n2", "m1"): seconds[1]}
    found = [pick(picture(*two, pace_s=pace_s), "m1", f"session {n}") for n in range(20)]
    assert {entry[0].name for entry in found if entry} == picked
    assert pick(picture(two[1], pace_s=pace_s), "m1") is not None, "never the last one"


def test_none_is_picked_where_none_has_room() -> None:
    assert pick(picture(neuron("n1", replica("m1")), leases={("n1", "m1"): 2}), "m1") is None
    assert pick(picture(neuron("n1", replica("m1")), paused={("n1", "m1"): 5.0}), "m1") is None
    assert pick(picture(neuron("n1", replica("m1")), caps={("n1", "m1"): 1}, leases={("n1", "m1"): 1}), "m1") is None
    assert pick(picture(neuron("n1", replica("m1", max_queue_depth=3)), leases={("n1", "m1"): 4}), "m1") is not None


def test_demand_is_posted_where_the_model_could_be() -> None:
    there = [neuron("n1"), neuron("n2", up=False), neuron("n3", simulated=False)]
    assert hosts(picture(*there), profile()) == ["n1"]


# ---------------------------------------------------------------- properties

states = st.sampled_from([State.READY, State.LOADING, State.DRAINING, State.UNLOADING])
fleets = st.lists(st.dictionaries(st.sampled_from(["m1", "m2", "m3"]), states, max_size=2), min_size=1, max_size=3)
backlogs_ = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3), st.integers(0, 9)), min_size=3, max_size=3)


@given(fleets, backlogs_)
def test_nobody_is_served_twice_and_nothing_is_moved_twice(
    fleet: list[dict[str, State]], waiting: list[tuple[int, int, int]]
) -> None:
    neurons = [
        neuron(f"n{i}", *(replica(m, 8000, id=f"{m}{i}", state=s) for m, s in entries.items()))
        for i, entries in enumerate(fleet)
    ]
    seen = picture(*neurons, profiles=[profile(m, 16_000) for m in ("m1", "m2", "m3")], now=100.0)
    backlogs = [
        waits(model, waiters, float(oldest), tickets=tickets)
        for model, (waiters, tickets, oldest) in zip(("m1", "m2", "m3"), waiting, strict=True)
        if waiters or tickets
    ]
    actions = schedule(seen, backlogs)
    for backlog in backlogs:
        own = [action for action in actions if action.model == backlog.model]
        assert sum(action.count for action in own if isinstance(action, Serve)) <= backlog.waiters
        swaps = [action for action in own if isinstance(action, Swap)]
        assert len(swaps) <= 1
        assert not (swaps and seen.is_under_way(backlog.model))
    moved = [(a.candidate.neuron, share.id) for a in actions if isinstance(a, Swap) for share in a.candidate.shares]
    assert len(moved) == len(set(moved)), "two swaps on one device"
    assert schedule(seen, backlogs) == actions, "the same picture, the same decisions"
    assert schedule(seen, backlogs, places=False) == [action for action in actions if isinstance(action, Serve)]

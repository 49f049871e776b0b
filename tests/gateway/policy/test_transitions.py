"""What is heard, and what is believed after it: in any order, with losses, and over restarts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from cortex_core.fleet import Demand, Failure, Fleet, Replica, State, check_invariants
from cortex_core.neuron_api import DemandEvent, Gauges, ReplicaEvent, Report
from cortex_gateway.policy.transitions import (
    Answered,
    Beat,
    Demanded,
    Event,
    Lost,
    ReplicaChanged,
    Reported,
    Reprofiled,
    apply,
    empty_fleet,
)
from tests.gateway.policy.fleets import card, profile, replica

EMPTY = empty_fleet([("n1", "http://n1"), ("n2", "http://n2")], {"m1": profile()})


def report(seq: int, *replicas: Replica, instance: str = "i1", at: float = 0.0, **fields: Any) -> Reported:
    said = Report(name="n1", instance_id=instance, seq=seq, devices=(card(),), replicas=replicas, **fields)
    return Reported("n1", said, at)


def change(seq: int, what: Replica, *, instance: str = "i1", at: float = 0.0) -> ReplicaChanged:
    return ReplicaChanged("n1", instance, ReplicaEvent(seq=seq, replica=what), at)


def after(*events: Event) -> Fleet:
    fleet = EMPTY
    for event in events:
        fleet = apply(fleet, event)
    return fleet


def believed(*events: Event) -> str:
    return " ".join(f"{r.id}:{r.state}" for r in after(*events).neurons["n1"].replicas)


READY, LOADING = replica("m1"), replica("m1", state=State.LOADING)
STORIES: list[tuple[str, list[Event], str]] = [
    ("a report", [report(1, READY)], "m1:ready"),
    ("a newer one replaces", [report(1, READY), report(2)], ""),
    ("an older one changes nothing", [report(2, READY), report(1)], "m1:ready"),
    ("the same one heals", [report(2), report(2, READY)], "m1:ready"),
    ("another start voids everything, whatever its seq", [report(9, READY), report(0, instance="i2")], ""),
    ("an event", [report(1, LOADING), change(2, READY)], "m1:ready"),
    ("a late event", [report(3, READY), change(2, LOADING)], "m1:ready"),
    ("an event of another start", [report(1), change(2, READY, instance="i0")], ""),
    ("a lost event is healed by a report", [report(1, LOADING), report(3, READY)], "m1:ready"),
    ("one that is gone leaves", [report(1, READY), change(2, structs.replace(READY, state=State.ABSENT))], ""),
    ("one that failed leaves", [report(1, LOADING), change(2, structs.replace(LOADING, state=State.FAILED))], ""),
    ("an answer that knows more", [report(1, LOADING), Answered("n1", "i1", (structs.replace(READY, version=2),))],
     "m1:ready"),
    ("an answer that knows less", [report(1, structs.replace(READY, version=3)), Answered("n1", "i1", (LOADING,))],
     "m1:ready"),
    ("an answer of another start", [report(1), Answered("n1", "i0", (READY,))], ""),
    ("an answer that it is gone", [report(1, READY),
                                   Answered("n1", "i1", (structs.replace(READY, version=2, state=State.ABSENT),))], ""),
    ("silence forgets nothing", [report(1, READY), Lost("n1", "gone")], "m1:ready"),
    ("an unknown neuron", [structs.replace(report(1, READY), neuron="n9")], ""),
]  # fmt: skip


@pytest.mark.parametrize(("events", "end"), [s[1:] for s in STORIES], ids=[s[0] for s in STORIES])
def test_story(events: list[Event], end: str) -> None:
    assert believed(*events) == end


def test_what_changes_nothing_is_the_same_object() -> None:
    fleet = after(report(2, READY))
    for event in (report(1), change(2, READY), Answered("n1", "i1", (READY,)), Beat("n1", "i0", Gauges(seq=9))):
        assert apply(fleet, event) is fleet


def test_silence_and_life() -> None:
    lost = after(report(1, READY), Lost("n1", "no route"))
    assert (lost.neurons["n1"].up, lost.neurons["n1"].problem) == (False, "no route")
    for sign in (report(1, READY), change(2, READY), Beat("n1", "i1", Gauges(seq=1), 5.0)):
        again = apply(lost, sign)
        assert (again.neurons["n1"].up, again.neurons["n1"].problem) == (True, "")


def test_a_heartbeat_moves_the_gauges_and_the_clock() -> None:
    gauges = Gauges(seq=1, in_flight={"m1": 3}, queue={"m1": 1}, idle_s={"m1": 0.0}, evictable_in_s={"m1": 4.0})
    found = after(report(1, READY, at=10.0), Beat("n1", "i1", gauges, 11.0)).neurons["n1"]
    [moved] = found.replicas
    assert (moved.in_flight, moved.queue, moved.idle_s, moved.evictable_in_s) == (3, 1, 0.0, 4.0)
    assert (found.at, moved.version) == (11.0, READY.version)
    late = Gauges(seq=0, in_flight={"m1": 9})
    assert apply(after(report(1, READY)), Beat("n1", "i1", late)).neurons["n1"].replicas == (READY,)


def gauges(seq: int, evictable_in_s: float, at: float) -> Beat:
    return Beat("n1", "i1", Gauges(seq=seq, evictable_in_s={"m1": evictable_in_s}), at)


def protected_s(*events: Event) -> float:
    [found] = after(*events).neurons["n1"].replicas
    return found.evictable_in_s


def test_gauges_that_an_answer_overtook_say_nothing_of_what_it_told() -> None:
    """Sent while it still loaded, when nothing was protected."""
    fresh = structs.replace(READY, version=2, evictable_in_s=5.0)
    begun = (report(1, LOADING), Answered("n1", "i1", (fresh,)))
    assert protected_s(*begun, gauges(1, 0.0, at=1.0)) == 4.0
    assert protected_s(*begun, change(2, fresh), gauges(2, 3.0, at=1.0)) == 3.0
    assert protected_s(*begun, report(2, fresh), gauges(2, 3.0, at=1.0)) == 3.0


def test_news_of_one_replica_does_not_make_another_younger() -> None:
    other = replica("m2", 4000, evictable_in_s=5.0, idle_s=7.0)
    found = after(report(1, LOADING, other, at=10.0), change(2, READY, at=12.0)).neurons["n1"]
    assert [(r.evictable_in_s, r.idle_s) for r in found.replicas if r.id == "m2"] == [(3.0, 9.0)]


def test_what_others_wait_for() -> None:
    told = DemandEvent(seq=2, demand={"gw2": {"m1": Demand(3, 1.5)}})
    assert after(report(1), Demanded("n1", "i1", told)).neurons["n1"].demand == told.demand
    assert after(report(3), Demanded("n1", "i1", told)).neurons["n1"].demand == {}


def test_a_failure_comes_with_the_answer() -> None:
    failure = Failure(model="m1", digest="d", scope="model", code="oom", retry_in_s=5.0)
    assert after(report(1), Answered("n1", "i1", (), failure)).neurons["n1"].failures == (failure,)


def test_another_catalogue() -> None:
    assert after(Reprofiled({"m2": profile("m2")})).profiles.keys() == {"m2"}


def test_the_index_follows_the_replicas() -> None:
    assert after(report(1, READY)).resident == {"m1": (("n1", "m1"),)}
    assert after(report(1, READY), report(2)).resident == {}
    kept = after(report(1, LOADING))
    assert apply(kept, change(2, READY)).resident is kept.resident, "who is where did not change"


# ---------------------------------------------------------------- properties

rows = st.tuples(st.sampled_from("abc"), st.sampled_from([State.READY, State.LOADING]))
truths = st.lists(st.lists(rows, max_size=3, unique_by=lambda row: row[0]), min_size=1, max_size=6)


@given(truths, st.randoms(), st.floats(0, 1))
def test_the_last_report_makes_whole_whatever_was_lost_or_overtaken(
    histories: list[list[tuple[str, State]]], dice: Any, lost: float
) -> None:
    """Reports of one start arrive in any order, some never; then the newest arrives, and is what is believed."""
    reports = [
        report(seq, *(replica(name, 1000, state=state, version=seq + 1) for name, state in truth))
        for seq, truth in enumerate(histories)
    ]
    heard = [entry for entry in reports if dice.random() >= lost]
    dice.shuffle(heard)
    fleet = after(*heard, reports[-1])
    assert fleet.neurons["n1"].replicas == reports[-1].report.replicas
    check_invariants(fleet)


@given(truths, st.randoms())
def test_nothing_older_is_believed_after_something_newer(histories: list[list[tuple[str, State]]], dice: Any) -> None:
    fleet, newest = EMPTY, -1
    events = [report(seq, *(replica(n, 1000, state=s) for n, s in truth)) for seq, truth in enumerate(histories)]
    dice.shuffle(events)
    for event in events:
        fleet = apply(fleet, event)
        newest = max(newest, event.report.seq)
        assert fleet.neurons["n1"].seq == newest
        index = {(model, n, r) for model, places in fleet.resident.items() for n, r in places}
        assert index == {(r.model, "n1", r.id) for r in fleet.neurons["n1"].replicas}

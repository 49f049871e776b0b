"""What is loaded and let go without anybody waiting."""

from __future__ import annotations

from typing import Any

import pytest

from cortex_core.fleet import Demand, Failure, Profile, Replicas, State
from cortex_gateway.policy.picture import Picture
from cortex_gateway.policy.schedule import Swap
from cortex_gateway.policy.upkeep import EXTRA_TURNS, LetGo, upkeep
from tests.gateway.policy.fleets import neuron, picture, profile, replica


def brief(seen: Picture, wanted: tuple[str, ...] = ()) -> list[str]:
    told = []
    for action in upkeep(seen, wanted):
        match action:
            case Swap():
                told.append(f"load {action.model} on {action.candidate.neuron}: {action.reason}")
            case LetGo():
                told.append(f"let {action.replica.id} on {action.neuron} go: {action.reason}")
    return told


PINNED = profile("m1", pinned_on=("n2",))
KEPT = profile("m1", replicas=Replicas(1, 2))
BRIEF = profile("m1", ttl_s=30.0)
FAILED = Failure(model="m1", digest=PINNED.digest, scope="device", code="oom", retry_in_s=5.0)

THEIRS = {"gw2": {"m1": Demand(1, 5.0)}}

CASES: list[tuple[str, Profile, tuple[Any, ...], list[str]]] = [
    ("nothing is asked", profile("m1"), (neuron("n1", replica("m1")),), []),
    ("pinned", PINNED, (neuron("n1"), neuron("n2")), ["load m1 on n2: pinned"]),
    ("pinned and there", PINNED, (neuron("n1"), neuron("n2", replica("m1"))), []),
    ("pinned and elsewhere", PINNED, (neuron("n1", replica("m1")), neuron("n2")), ["load m1 on n2: pinned"]),
    ("pinned where it is busy", PINNED, (neuron("n2", replica("m2", in_flight=1)),), []),
    ("pinned where it failed", PINNED, (neuron("n2", failures=(FAILED,)),), []),
    ("pinned, and an operator says no", PINNED, (neuron("n2", pins={"m1": False}),), []),
    ("pinned on a neuron that nobody knows", profile("m1", pinned_on=("n9",)), (neuron("n1"),), []),
    ("at least one", KEPT, (neuron("n1"),), ["load m1 on n1: replicas.min"]),
    ("at least one, and nobody leaves for it", KEPT, (neuron("n1", replica("m2")),), []),
    ("pinned, and what is idle leaves for it", PINNED, (neuron("n2", replica("m2")),), ["load m1 on n2: pinned"]),
    ("at least one, which loads", KEPT, (neuron("n1", replica("m1", state=State.LOADING)),), []),
    ("idle past its time", BRIEF, (neuron("n1", replica("m1", idle_s=30.0)),), ["let m1 on n1 go: idle for 30 s"]),
    ("idle, not for so long", BRIEF, (neuron("n1", replica("m1", idle_s=29.0)),), []),
    ("idle, and loaded a moment ago", BRIEF, (neuron("n1", replica("m1", evictable_in_s=2.0)),), []),
    ("idle, and waited for at another gateway", BRIEF, (neuron("n1", replica("m1"), demand=THEIRS),), []),
    ("not idle", BRIEF, (neuron("n1", replica("m1", in_flight=1)),), []),
    ("idle and pinned by hand", BRIEF, (neuron("n1", replica("m1", pinned=True)),), []),
    ("idle and the least that is kept", profile("m1", ttl_s=30.0, replicas=Replicas(1, 1)),
     (neuron("n1", replica("m1")),), []),
]  # fmt: skip


@pytest.mark.parametrize(("entry", "neurons", "done"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_upkeep(entry: Profile, neurons: tuple[Any, ...], done: list[str]) -> None:
    assert brief(picture(*neurons, profiles=[entry])) == done


def test_who_is_waited_for_is_left_to_its_waiters() -> None:
    assert brief(picture(neuron("n1", replica("m1")), profiles=[BRIEF]), wanted=("m1",)) == []


def test_a_further_replica_goes_when_one_is_enough_and_the_first_stays() -> None:
    long_s = EXTRA_TURNS * 40.0
    one = neuron("n1", replica("m1", id="a", idle_s=long_s + 1))
    two = neuron("n2", replica("m1", id="b", idle_s=long_s + 2))
    assert brief(picture(one, two)) == ["let b on n2 go: one replica is enough"]
    assert brief(picture(one, neuron("n2", replica("m1", id="b", idle_s=1.0)))) == [
        "let a on n1 go: one replica is enough"
    ]
    assert brief(picture(one)) == []


def test_two_loads_for_nobody_respect_each_other() -> None:
    both = [profile("m1", replicas=Replicas(1, 1)), profile("m2", replicas=Replicas(1, 1))]
    assert brief(picture(neuron("n1"), profiles=both)) == ["load m1 on n1: replicas.min"]

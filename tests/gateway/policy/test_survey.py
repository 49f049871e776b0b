"""What is kept of each neuron between decisions: never wrong, and never so little that a plan makes it all anew."""

from __future__ import annotations

import random

import pytest
from msgspec import structs

from cortex_gateway.policy.eviction import Strategy
from cortex_gateway.policy.placement import first
from cortex_gateway.policy.survey import CATCH_UP, STALE_MOST, Survey, Surveys
from tests.gateway.policy.fleets import neuron, picture, profile, replica

MANY = 3 * STALE_MOST


def test_a_plan_makes_few_anew_however_much_happened_since_the_last_one() -> None:
    leases: dict[tuple[str, str], int] = {}
    surveys = Surveys()
    fleet = picture(*(neuron(f"n{n}", replica("m2")) for n in range(MANY)), leases=leases, surveys=surveys)
    dice = random.Random(1)
    for _ in range(10 * MANY):
        name = f"n{dice.randrange(MANY)}"
        leases[name, "m2"] = 1 - leases.get((name, "m2"), 0)
        surveys.forget(name)
        surveys.catch_up(lambda: fleet)
        assert surveys.stale <= STALE_MOST + CATCH_UP
    fresh = structs.replace(fleet, surveys=Surveys())
    assert first(fleet, profile(), fleet.fleet.neurons.values()) == first(
        fresh, profile(), fresh.fleet.neurons.values()
    )
    assert surveys.stale == 0
    for one in fleet.fleet.neurons.values():
        kept, found = surveys.of(fleet, one), Survey(fleet, one)
        assert (kept.free_mb, kept.idle, kept.turned) == (found.free_mb, found.idle, found.turned)


@pytest.mark.parametrize(
    ("strategy", "idle_s", "passed_s", "news"),
    [("lru", 11.0, 1.0, False), ("lru", 10.9, 1.0, False), ("lru", 0.4, 1.0, True), ("cost", 0.4, 1.0, False)],
    ids=["as idle as time makes it", "told a moment later", "used in between", "used, and no age counts"],
)
def test_by_age_a_replica_that_somebody_used_is_seen_anew(
    strategy: Strategy, idle_s: float, passed_s: float, news: bool
) -> None:
    before = neuron("n1", replica("m2", idle_s=10.0), at=100.0)
    after = structs.replace(before, replicas=(replica("m2", idle_s=idle_s),), at=100.0 + passed_s)
    same = structs.replace(after, known=before.known, pins=before.pins)
    assert Surveys(strategy).heard(before, same) is news


def test_a_new_catalogue_is_caught_up_with_by_and_by() -> None:
    surveys = Surveys()
    fleet = picture(*(neuron(f"n{n}", replica("m2")) for n in range(MANY)), surveys=surveys)
    first(fleet, profile(), fleet.fleet.neurons.values())
    surveys.forget_all()
    assert surveys.stale == MANY
    for _ in range(MANY):
        surveys.forget("n0")
        surveys.catch_up(lambda: fleet)
    assert surveys.stale <= STALE_MOST

"""The oldest of those who come and go, in any order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cortex_gateway.policy.arrivals import SLACK, Arrivals

moves = st.lists(st.one_of(st.integers(0, 5).map(float), st.none()), max_size=60)


@given(moves, st.randoms())
def test_the_least_of_those_who_are_here(moves: list[float | None], dice: object) -> None:
    arrivals, here = Arrivals(), list[float]()
    for arrived in moves:
        if arrived is not None:
            arrivals.add(arrived)
            here.append(arrived)
        elif here:
            gone = dice.choice(here)  # type: ignore[attr-defined] # a random.Random
            here.remove(gone)
            arrivals.remove(gone)
        assert len(arrivals) == len(here)
        if here:
            assert arrivals.oldest() == min(here)


def test_one_that_stays_for_ever_costs_no_memory() -> None:
    arrivals = Arrivals()
    arrivals.add(0.0)
    for number in range(10_000):
        arrivals.add(1.0 + number)
        arrivals.remove(1.0 + number)
    assert arrivals.oldest() == 0.0
    assert len(arrivals._heap) <= 2 + SLACK + 1

"""Turns between gateways: in proportion to what each has waiting, and none is forgotten."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from cortex_core.shares import Shares

waiting = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 1000), min_size=1)


def turns(weights: dict[str, int], count: int) -> list[str]:
    """Who has so many turns when all wait all the time."""
    shares, had = Shares(), []
    for name, weight in weights.items():
        shares.join(name, weight)
    for _ in range(count):
        had.append(shares.next())
        shares.join(had[-1], weights[had[-1]])
    return had


@given(waiting)
def test_each_has_its_share_to_within_a_turn(weights: dict[str, int]) -> None:
    whole = sum(max(1, weight) for weight in weights.values())
    had = Counter(turns(weights, 500))
    for name, weight in weights.items():
        assert abs(had[name] - 500 * max(1, weight) / whole) <= len(weights)


def test_equals_alternate() -> None:
    assert turns({"a": 7, "b": 7}, 6) == ["a", "b", "a", "b", "a", "b"]


def test_one_that_comes_later_has_its_turn_and_saves_none_up() -> None:
    shares = Shares()
    shares.join("many", 100)
    for _ in range(1000):
        assert shares.next() == "many"
        shares.join("many", 100)
    shares.join("few", 1)
    had = []
    for _ in range(101):
        had.append(shares.next())
        if had[-1] == "few":
            shares.leave("few")
        else:
            shares.join("many", 100)
    assert had.count("few") == 1
    assert "few" in had[95:]

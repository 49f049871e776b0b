"""Whose request is next: by priority, then fairly between callers in tokens, then between a caller's sessions."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from cortex_gateway.policy.fairness import DEBT, QUANTUM, FairQueue


class Item(Struct):
    caller: str
    session: str = ""
    priority: int = 5
    tokens: int = QUANTUM
    arrived: float = 0.0


def drained(items: list[Item]) -> list[Item]:
    queue: FairQueue[Item] = FairQueue()
    for item in items:
        queue.push(item)
    return [queue.pop() for _ in items]


def callers(items: list[Item]) -> str:
    return "".join(item.caller for item in items)


ORDERS = [
    ("first come, first served", [Item("a", arrived=1), Item("a", arrived=2)], "aa"),
    ("callers take turns", [Item("a"), Item("a"), Item("a"), Item("b"), Item("c")], "abcaa"),
    ("higher first", [Item("a"), Item("b", priority=9), Item("c", priority=7)], "bca"),
    ("in tokens", [*[Item("a", tokens=QUANTUM * 4)] * 2, *[Item("b", tokens=QUANTUM)] * 6], "abbbbabb"),
]


@pytest.mark.parametrize(("items", "order"), [o[1:] for o in ORDERS], ids=[o[0] for o in ORDERS])
def test_order(items: list[Item], order: str) -> None:
    assert callers(drained(items)) == order


def test_sessions_of_a_caller_take_turns_and_are_each_in_order() -> None:
    items = [Item("a", "x", arrived=1), Item("a", "x", arrived=2), Item("a", "y", arrived=3)]
    assert [(item.session, item.arrived) for item in drained(items)] == [("x", 1), ("y", 3), ("x", 2)]


def test_one_that_comes_back_keeps_its_age() -> None:
    items = [Item("a", arrived=5), Item("a", arrived=6), Item("a", arrived=1)]
    assert [item.arrived for item in drained(items)] == [1, 5, 6]


def test_who_took_more_than_estimated_waits_for_the_others() -> None:
    queue: FairQueue[Item] = FairQueue()
    for _ in range(6):
        queue.push(Item("a", tokens=0))
        queue.push(Item("b", tokens=0))
    assert queue.pop().caller == "a"
    queue.charge("a", 10 * QUANTUM)
    assert "".join(queue.pop().caller for _ in range(6)) == "bbbbbb"


def test_a_debt_is_bounded_and_survives_an_empty_queue() -> None:
    queue: FairQueue[Item] = FairQueue()
    queue.push(Item("a"))
    queue.pop()
    queue.charge("a", 1e9)
    for _ in range(DEBT // QUANTUM + 8):
        queue.push(Item("b", tokens=QUANTUM))
    queue.push(Item("a", tokens=QUANTUM))
    served = "".join(queue.pop().caller for _ in range(len(queue)))
    assert 16 <= served.index("a") <= DEBT // QUANTUM + 8


def test_silence_earns_nothing() -> None:
    queue: FairQueue[Item] = FairQueue()
    queue.push(Item("late"))
    queue.pop()
    for _ in range(20):
        queue.push(Item("busy"))
        queue.pop()
    for _ in range(4):
        queue.push(Item("busy"))
        queue.push(Item("late"))
    served = "".join(queue.pop().caller[0] for _ in range(8))
    assert abs(served[:4].count("l") - 2) <= 1


def test_the_oldest_and_the_highest_that_wait() -> None:
    queue: FairQueue[Item] = FairQueue()
    queue.push(Item("a", arrived=7, priority=2))
    queue.push(Item("b", arrived=3, priority=8))
    assert (queue.oldest(), queue.priority, len(queue), len(list(queue))) == (3, 8, 2, 2)


def test_removing_one_that_is_not_there() -> None:
    queue: FairQueue[Item] = FairQueue()
    queue.push(here := Item("a"))
    assert not queue.remove(Item("a", session="other"))
    assert queue.remove(here)
    assert not queue.remove(here)
    assert not queue


items_ = st.lists(
    st.builds(
        Item,
        caller=st.sampled_from("abc"),
        session=st.sampled_from(["", "x"]),
        priority=st.sampled_from([5, 5, 9]),
        tokens=st.integers(0, 4 * QUANTUM),
        arrived=st.integers(0, 9).map(float),
    ),
    max_size=30,
)


@given(items_, st.randoms())
def test_everything_comes_out_once_and_never_a_lower_priority_before_a_higher(items: list[Item], dice: object) -> None:
    queue: FairQueue[Item] = FairQueue()
    for item in items:
        queue.push(item)
    served = []
    while queue:
        highest = queue.priority
        item = queue.pop()
        assert item.priority == highest
        served.append(id(item))
    assert sorted(served) == sorted(map(id, items))


@given(st.integers(1, 6), st.lists(st.integers(1, 3 * QUANTUM), min_size=40, max_size=40))
def test_busy_callers_get_alike_in_tokens(count: int, tokens: list[int]) -> None:
    """Whoever always has something waiting gets its share, within two of the largest requests and a round."""
    queue: FairQueue[Item] = FairQueue()
    sizes = iter(tokens * count * 4)
    for name in "abcdef"[:count]:
        for _ in range(2):
            queue.push(Item(name, tokens=next(sizes)))
    got: Counter[str] = Counter()
    for _ in range(30 * count):
        item = queue.pop()
        got[item.caller] += item.tokens
        queue.push(Item(item.caller, tokens=next(sizes)))
    assert max(got.values()) - min(got.values()) <= 2 * 3 * QUANTUM + 2 * QUANTUM

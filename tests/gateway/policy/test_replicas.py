"""Between replicas of a model: where a session was, the least loaded, and away from those that fail."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from cortex_gateway.policy.affinity import BOUND, Seat, seat_for
from cortex_gateway.policy.breaker import FAILURES, OPEN_MAX_S, OPEN_S, Breaker, after_failure, state

seats_ = st.lists(
    st.builds(Seat, name=st.uuids().map(str), held=st.integers(0, 9), slots=st.integers(0, 8), demoted=st.booleans()),
    min_size=1,
    max_size=8,
)


def test_the_least_loaded_without_a_key() -> None:
    assert seat_for("", [Seat("a", 3, 8), Seat("b", 2, 8), Seat("c", 5, 16)]) == 1


def test_a_session_stays_up_to_the_bound() -> None:
    seats = [Seat("a", 0, 8), Seat("b", 0, 8)]
    home = seat_for("session", seats)
    for held in range(int(BOUND * 8)):
        seats[home] = Seat(seats[home].name, held, 8)
        assert seat_for("session", seats) == home
    seats[home] = Seat(seats[home].name, 8, 8)
    assert seat_for("session", seats) == 1 - home


def test_one_that_joins_takes_only_its_share_of_the_sessions() -> None:
    four = [Seat(name, 0, 8) for name in "abcd"]
    keys = [f"session {number}" for number in range(2000)]
    before = [four[seat_for(key, four)].name for key in keys]
    five = [*four, Seat("e", 0, 8)]
    after = [five[seat_for(key, five)].name for key in keys]
    moved = [new for old, new in zip(before, after, strict=True) if old != new]
    assert set(moved) == {"e"}
    assert 300 < len(moved) < 500


@given(seats_, st.text(max_size=5))
def test_a_demoted_one_only_when_all_are(seats: list[Seat], key: str) -> None:
    chosen = seats[seat_for(key, seats)]
    assert not chosen.demoted or all(seat.demoted for seat in seats)


@given(seats_, st.text(min_size=1, max_size=5), st.randoms())
def test_gateways_agree_whatever_their_order(seats: list[Seat], key: str, dice: object) -> None:
    back = list(reversed(seats))
    assert seats[seat_for(key, seats)].name == back[seat_for(key, back)].name


# ---------------------------------------------------------------- the breaker


def failed(times: int, now: float = 0.0, breaker: Breaker | None = None) -> Breaker | None:
    for _ in range(times):
        breaker = after_failure(breaker, now)
    return breaker


@pytest.mark.parametrize(
    ("failures", "at", "said"),
    [
        (0, 0.0, "closed"),
        (FAILURES - 1, 0.0, "closed"),
        (FAILURES, 0.0, "open"),
        (FAILURES, OPEN_S - 0.1, "open"),
        (FAILURES, OPEN_S, "probe"),
    ],
)
def test_it_opens_at_the_fifth_in_a_row(failures: int, at: float, said: str) -> None:
    assert state(failed(failures), at) == said


def test_one_request_probes_and_a_failed_probe_opens_for_longer() -> None:
    breaker = failed(FAILURES)
    assert breaker is not None
    probing = structs.replace(breaker, probing=True)
    assert state(probing, OPEN_S) == "probing"
    again = after_failure(probing, OPEN_S)
    assert state(again, OPEN_S + 2 * OPEN_S - 0.1) == "open"
    assert state(again, OPEN_S + 2 * OPEN_S) == "probe"


def test_it_never_stays_open_for_longer_than_its_bound() -> None:
    breaker: Breaker | None = None
    for number in range(20):
        breaker = failed(FAILURES, number * 1000.0, breaker)
        assert breaker is not None
        assert breaker.open_until - number * 1000.0 <= OPEN_MAX_S

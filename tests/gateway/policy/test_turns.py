"""How long a resident stays, when a wait is too long, and the bound that follows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex_gateway.policy.turns import bound_s, load_s, overdue_s, turn_s
from tests.gateway.policy.fleets import known, neuron, profile


@pytest.mark.parametrize(("load", "turn"), [(0, 10), (2, 10), (2.5, 10), (5, 20), (60, 240)])
def test_a_turn_is_worth_its_load(load: float, turn: float) -> None:
    assert turn_s(load) == turn


def test_a_load_is_measured_or_estimated() -> None:
    assert load_s(neuron(known=(known("m1", 1, load_s=7.0),)), profile("m1"), 16_000) == 7.0
    assert load_s(neuron(known=(known("m2", 1, load_s=7.0),)), profile("m1"), 16_000) == 16.0
    assert load_s(neuron(known=(known("m1", 1, load_s=0.0),)), profile("m1"), 16_000) == 16.0


@given(st.floats(0, 1000), st.floats(0, 1000), st.integers(1, 50))
def test_who_is_overdue_is_still_within_the_bound(load: float, drain: float, competing: int) -> None:
    assert turn_s(load) <= overdue_s([load] * competing) <= bound_s(load, drain, competing) + 1e-6

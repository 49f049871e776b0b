"""Drawn scenarios: a small fleet in trouble, and every invariant at each step."""

from __future__ import annotations

from cortex_gateway.sim import drawn, simulate


def test_a_seed_is_replayed_exactly() -> None:
    assert simulate(drawn(7), 7) == simulate(drawn(7), 7)

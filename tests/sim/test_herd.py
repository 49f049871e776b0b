"""R20: a thousand cold requests in one moment are one load, however many gateways they come through."""

from __future__ import annotations

import pytest

from cortex_gateway.sim import Outcome, Scenario, simulate
from cortex_gateway.sim.clients import Ask, Client
from cortex_gateway.sim.engine import Speed
from cortex_gateway.sim.scenario import device, models, profiles

SMALL, LARGE = (device(8 * 1024),), (device(24 * 1024),)


def herd(gateways: dict[str, float], count: int = 1000) -> Scenario:
    known = models(16 * 1024, load_s=20.0, speed=Speed(max_in_flight=32, tokens_per_s=4000.0))
    names = tuple(gateways)
    return Scenario(
        neurons={"n1": SMALL, "n2": LARGE, "n3": SMALL},
        models=known,
        profiles=profiles(known),
        gateways=gateways,
        clients=tuple(
            Client(name=f"c{n}", gateway=names[n % len(names)], asks=(Ask(model="m1", after_s=1.0),))
            for n in range(count)
        ),
    )


def check(outcome: Outcome, count: int = 1000) -> None:
    assert outcome.loads == (("n2", "m1"),)
    assert outcome.outcomes == {"served": count}


def test_one_gateway() -> None:
    check(simulate(herd({"gw1": 0.001}), 1))


def test_two_gateways_at_unequal_distance() -> None:
    check(simulate(herd({"gw1": 0.0002, "gw2": 0.002}), 1))


@pytest.mark.parametrize("seed", range(10))
def test_a_smaller_herd_in_any_order(seed: int) -> None:
    check(simulate(herd({"gw1": 0.0, "gw2": 0.0}, 100), seed), 100)

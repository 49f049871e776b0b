"""R23: models that do not fit together take turns, each within its bound; a light one is not starved by busy ones."""

from __future__ import annotations

import random

import pytest

from cortex_gateway.dispatch.swaps import DRAIN_S
from cortex_gateway.policy.turns import bound_s
from cortex_gateway.sim import Outcome, Scenario, simulate
from cortex_gateway.sim.clients import Ask, Client
from cortex_gateway.sim.scenario import device, models, profiles

LOAD_S = 5.0


def busy(count: int, gateways: dict[str, float], *, asks: int = 12, seed: int = 0) -> Scenario:
    """So many models of which one fits; all but the last have four users each who never pause, the last has one.

    A user's answer takes 5 to 20 seconds and all pause for at most two, so a resident is never idle.
    """
    dice = random.Random(seed)
    known = models(*[16 * 1024] * count, load_s=LOAD_S)
    names = tuple(gateways)
    clients = []
    for number, model in enumerate(known):
        for user in range(4 if number < count - 1 else 1):
            own = tuple(
                Ask(model=model, after_s=float(dice.randint(0, 2)), tokens=dice.choice((400, 800, 1500)))
                for _ in range(asks)
            )
            gateway = names[(number + user) % len(names)]
            clients.append(Client(name=f"{model}-{user}", gateway=gateway, asks=own, patience=100))
    return Scenario(
        neurons={"n1": (device(24 * 1024),)},
        models=known,
        profiles=profiles(known),
        gateways=gateways,
        clients=tuple(clients),
        limit_s=40_000.0,
    )


def check(outcome: Outcome, count: int) -> None:
    assert set(outcome.outcomes) == {"served"}
    bound = bound_s(LOAD_S, DRAIN_S, count - 1)
    late = {model: waited for model, waited in outcome.turns_s.items() if waited > bound}
    assert not late, f"waited longer than {bound} s for a turn: {late}"


@pytest.mark.parametrize("count", [2, 3, 6])
def test_each_gets_its_turn(count: int) -> None:
    check(simulate(busy(count, {"gw1": 0.001}), count), count)


@pytest.mark.parametrize("count", [2, 4])
def test_through_two_gateways_at_unequal_distance(count: int) -> None:
    check(simulate(busy(count, {"near": 0.0002, "far": 0.02}), count), count)


def test_a_user_who_alternates_is_not_held_up_by_turns() -> None:
    """Work-conserving: nobody else waits, so a question costs an unload, a load and its answer, and no heartbeat."""
    known = models(16 * 1024, 16 * 1024, load_s=LOAD_S)
    asks = tuple(Ask(model=f"m{1 + turn % 2}", after_s=0.0, tokens=40) for turn in range(20))
    scenario = Scenario(
        neurons={"n1": (device(24 * 1024),)},
        models=known,
        profiles=profiles(known),
        gateways={"gw1": 0.001},
        clients=(Client(name="user", gateway="gw1", asks=asks),),
    )
    outcome = simulate(scenario, 1)
    assert outcome.outcomes == {"served": 20}
    assert len(outcome.loads) == 20
    slowest = max(*outcome.waits_s("m1"), *outcome.waits_s("m2"))
    assert slowest < 1.0 + LOAD_S + 0.6 + 0.1

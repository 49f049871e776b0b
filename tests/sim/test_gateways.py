"""Two gateways on one fleet, with nothing between them: slots, loads and evictions are settled by the neurons."""

from __future__ import annotations

import pytest

from cortex_gateway.sim import simulate
from cortex_gateway.sim.engine import Speed
from tests.sim.stage import again, once, stage

NEAR_AND_FAR = {"near": 0.0002, "far": 0.002}


@pytest.mark.parametrize(("near", "far"), [(40, 40), (60, 20), (20, 60)])
def test_slots_are_shared_in_proportion_to_what_waits(near: int, far: int) -> None:
    """Eight slots, busy clients at each gateway: without the neuron's queues the nearer one takes nearly all."""
    users = {"near": near, "far": far}
    clients = tuple(again("m1", 25, name=f"{g} {n}", gateway=g) for g, count in users.items() for n in range(count))
    scenario = stage(16, clients=clients, gateways=NEAR_AND_FAR, speed=Speed(max_in_flight=8))
    outcome = simulate(scenario, 1)
    assert outcome.outcomes == {"served": 2000}
    ended = {g: sorted(a.asked_at + a.seconds for a in outcome.answers if a.gateway == g) for g in users}
    both_s = min(times[-1] for times in ended.values())  # for so long both have somebody waiting
    served = {g: sum(ended_at <= both_s / 2 for ended_at in times) for g, times in ended.items()}
    assert 0.8 < (served["near"] / near) / (served["far"] / far) < 1.25, served


@pytest.mark.parametrize("seed", range(10))
def test_conflicting_loads_are_settled_and_nobody_is_refused(seed: int) -> None:
    """Each gateway wants its own model on the only card, again and again."""
    clients = tuple(
        again(f"m{1 + n % 4}", 4, pause_s=n % 3, name=f"c{n}", gateway=("near", "far")[n % 2]) for n in range(16)
    )
    outcome = simulate(stage(16, 16, 10, 10, clients=clients, gateways=NEAR_AND_FAR), seed)
    assert outcome.outcomes == {"served": 64}
    assert outcome.cut == 0


@pytest.mark.parametrize("seed", range(10))
def test_the_same_model_through_both_is_one_load(seed: int) -> None:
    clients = tuple(once("m1", 1.0, name=f"c{n}", gateway=("near", "far")[n % 2]) for n in range(20))
    outcome = simulate(stage(16, cards_gb=(24, 24, 24), clients=clients, gateways=NEAR_AND_FAR), seed)
    assert outcome.outcomes == {"served": 20}
    assert len(outcome.loads) == 1

"""`defrag_after_cycles`: free memory in pieces becomes one, when nobody needs what is moved and somebody may come."""

from __future__ import annotations

import pytest
from msgspec import structs

from cortex_gateway.dispatch.dispatcher import Rules
from cortex_gateway.sim import Scenario, simulate
from cortex_gateway.sim.clients import Client
from cortex_gateway.sim.scenario import device
from tests.sim.stage import GB, again, once, stage


def pieces(*clients: Client, defrag_after: int = 3) -> Scenario:
    """One neuron of two cards. The large model has come and gone by itself; each small one took a card of its own."""
    first = (once("m3", 0, name="first"), once("m1", 30), once("m2", 40))
    scenario = stage(8, 8, 24, clients=(*first, *clients))
    brief = structs.replace(scenario.profiles["m3"], ttl_s=5.0)
    return structs.replace(
        scenario,
        neurons={"n1": (device(24 * GB, 0), device(24 * GB, 1))},
        profiles={**scenario.profiles, "m3": brief},
        rules=Rules(defrag_after=defrag_after),
    )


@pytest.mark.parametrize("seed", range(5))
def test_a_model_that_may_come_again_finds_room_and_nobody_leaves(seed: int) -> None:
    outcome = simulate(pieces(once("m3", 80)), seed)
    assert outcome.outcomes == {"served": 4}
    assert [swap.reason for swap in outcome.swaps].count("defragment") == 1
    assert (outcome.swaps[-1].model, outcome.swaps[-1].victims) == ("m3", ())


@pytest.mark.parametrize("seed", range(5))
def test_without_it_somebody_leaves(seed: int) -> None:
    outcome = simulate(pieces(once("m3", 80), defrag_after=0), seed)
    last = [swap for swap in outcome.swaps if swap.model == "m3" and swap.loaded][-1]
    assert len(last.victims) == 1


@pytest.mark.parametrize("seed", range(5))
def test_what_is_used_is_not_moved_and_no_answer_is_cut(seed: int) -> None:
    """Both have an answer under way for as long as it lasts: the move waits, and hinders nobody."""
    users = (again("m1", 3, tokens=2000, name="a"), again("m2", 3, tokens=2000, name="b"))
    outcome = simulate(pieces(*users), seed)
    assert outcome.outcomes == {"served": 9}
    assert outcome.cut == 0

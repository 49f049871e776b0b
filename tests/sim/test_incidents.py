"""R22: what stopped or starved others in the field, each as a scenario. Any seed must come through."""

from __future__ import annotations

import pytest

from cortex_gateway.sim import Fault, simulate
from cortex_gateway.sim.clients import Ask, Client
from cortex_gateway.sim.truth import LoadFault
from tests.sim.stage import again, once, stage

pytestmark = pytest.mark.parametrize("seed", range(5))


def test_ollama_17408_an_eviction_target_that_is_asked_for_during_its_eviction(seed: int) -> None:
    """There every later load hung for 5.5 hours, with health green."""
    clients = (once("m1", 0), once("m2", 20), *(once("m1", 20 + delay / 4, name=f"c{delay}") for delay in range(12)))
    outcome = simulate(stage(16, 16, clients=clients), seed)
    assert outcome.outcomes == {"served": len(clients)}
    assert outcome.virtual_s < 60


def test_ollama_14407_evictions_under_load(seed: int) -> None:
    """There the wait for an unload never returned."""
    clients = tuple(again(f"m{1 + n % 3}", 8, pause_s=n / 3, name=f"c{n}") for n in range(12))
    outcome = simulate(stage(16, 16, 16, clients=clients), seed)
    assert outcome.outcomes == {"served": 96}


def test_ollama_18282_a_model_that_can_never_fit_evicts_nobody(seed: int) -> None:
    """There it evicted and loaded in a circle."""
    clients = (*(once("m2", at, name=f"large{at}") for at in range(10, 30)), again("m1", 30, pause_s=1))
    outcome = simulate(stage(16, 60, clients=clients), seed)
    assert outcome.outcomes == {"served": 30, "model_cannot_fit": 20}
    assert outcome.loads == (("n1", "m1"),)


def test_llama_swap_946_a_ttl_that_ends_while_a_request_arrives(seed: int) -> None:
    """There the group was dead from that moment on."""
    ask = tuple(Ask(model="m1", after_s=9.0 + n / 8, tokens=8) for n in range(16))
    client = Client(name="c", gateway="gw1", asks=ask)
    outcome = simulate(stage(16, clients=(client,), profile={"ttl_s": 10.0}), seed)
    assert outcome.outcomes == {"served": 16}


def test_llama_swap_277_never_two_where_one_fits(seed: int) -> None:
    clients = tuple(once(f"m{1 + n % 2}", n % 4, name=f"c{n}") for n in range(40))
    outcome = simulate(stage(16, 16, clients=clients), seed)  # the memory invariant is checked at every change
    assert outcome.outcomes == {"served": 40}


def test_llama_swap_612_requests_are_collated_instead_of_thrashing(seed: int) -> None:
    """A B A A C A B C in one moment: three loads, not seven."""
    clients = tuple(once(f"m{'ABC'.index(x) + 1}", n / 10, name=f"{n}") for n, x in enumerate("ABAACABC"))
    outcome = simulate(stage(16, 16, 16, clients=clients), seed)
    assert outcome.outcomes == {"served": 8}
    assert len(outcome.loads) == 3


def test_llama_swap_19_two_agents_do_not_end_each_others_answers(seed: int) -> None:
    clients = (again("m1", 6, tokens=1200), again("m2", 6, tokens=1200))
    outcome = simulate(stage(16, 16, clients=clients), seed)
    assert outcome.outcomes == {"served": 12}
    assert outcome.cut == 0


def test_llama_swap_25_idle_is_counted_from_the_end_of_an_answer(seed: int) -> None:
    """An answer of 25 s, then a pause of 5: with a TTL of 10 s it stays."""
    outcome = simulate(stage(16, clients=(again("m1", 3, pause_s=5, tokens=2000),), profile={"ttl_s": 10.0}), seed)
    assert outcome.outcomes == {"served": 3}
    assert len(outcome.loads) == 1


def test_omlx_2701_requests_that_arrive_during_a_load(seed: int) -> None:
    """There one wedged the scheduler."""
    clients = tuple(once("m1", 0.5 * n, name=f"c{n}") for n in range(20))
    outcome = simulate(stage(16, clients=clients), seed)
    assert outcome.outcomes == {"served": 20}
    assert len(outcome.loads) == 1


def test_llama_cpp_28698_the_request_that_caused_a_load_is_served_before_the_next_eviction(seed: int) -> None:
    """There a queued model evicted the one that had just become ready for somebody else."""
    clients = (once("m1", 0), once("m2", 0.1))
    outcome = simulate(stage(16, 16, clients=clients), seed)
    assert outcome.outcomes == {"served": 2}
    assert len(outcome.loads) == 2


def test_a_load_that_fails_is_not_tried_by_everybody(seed: int) -> None:
    """Failure of scope `model`: one try on one of three neurons, and the waiters are told within a second."""
    fault = Fault(at_s=0, kind="load", model="m1", load=LoadFault(fails_at=0.5, scope="model"))
    clients = tuple(once("m1", 1, name=f"c{n}", patience=0, gateway=f"gw{1 + n % 2}") for n in range(10))
    gateways = {"gw1": 0.001, "gw2": 0.002}
    scenario = stage(16, cards_gb=(24, 24, 24), clients=clients, faults=(fault,), gateways=gateways)
    outcome = simulate(scenario, seed)
    assert outcome.outcomes == {"load_failed": 10}
    assert len(outcome.loads) == 1
    assert max(answer.seconds for answer in outcome.answers) < 2.5 + 1.0 + 0.5

"""What goes wrong, one thing at a time: who notices, what ends, and how it heals."""

from __future__ import annotations

import pytest

from cortex_gateway.sim import Fault, Outcome, simulate
from cortex_gateway.sim.clients import Ask, Client
from cortex_gateway.sim.truth import LoadFault
from tests.sim.stage import again, once, stage

SEEDS = pytest.mark.parametrize("seed", range(5))


def ended_at(outcome: Outcome, kind: str) -> list[float]:
    return [answer.asked_at + answer.seconds for answer in outcome.answers if answer.outcome == kind]


@SEEDS
def test_a_crash_ends_its_streams_at_once_and_the_model_comes_back(seed: int) -> None:
    clients = (*(once("m1", 1, tokens=2000, name=f"c{n}") for n in range(4)), once("m1", 12, name="later"))
    outcome = simulate(stage(16, clients=clients, faults=(Fault(at_s=10, kind="crash", for_s=3),)), seed)
    assert outcome.outcomes == {"cut": 4, "served": 1}
    assert max(ended_at(outcome, "cut")) < 10.1
    assert outcome.loads == (("n1", "m1"), ("n1", "m1"))


@SEEDS
def test_a_crash_is_hidden_from_who_only_waited(seed: int) -> None:
    """In the middle of the load, with another neuron to go to."""
    fault = Fault(at_s=3, kind="crash", for_s=60)
    clients = tuple(once("m1", 1, name=f"c{n}") for n in range(10))
    for neuron in ("n1", "n2"):
        one = Fault(at_s=fault.at_s, kind=fault.kind, neuron=neuron, for_s=fault.for_s)
        outcome = simulate(stage(16, cards_gb=(24, 24), clients=clients, faults=(one,)), seed)
        assert outcome.outcomes == {"served": 10}
        assert max(answer.seconds for answer in outcome.answers) < 20


ENGINE = Fault(at_s=10, kind="engine", model="m1", for_s=11)


@SEEDS
def test_an_engine_that_is_long_in_coming_back_holds_nobody_where_another_neuron_has_room(seed: int) -> None:
    """What it is forked from died with it: a start takes 11 s longer than the load of a second."""
    clients = (once("m1", 0), *(once("m1", 10.5 + n / 4, name=f"c{n}") for n in range(10)))
    outcome = simulate(stage(16, cards_gb=(24, 24), clients=clients, faults=(ENGINE,), load_s=1.0), seed)
    assert outcome.outcomes == {"served": 11}
    assert {neuron for neuron, _ in outcome.loads} == {"n1", "n2"}
    assert max(answer.seconds for answer in outcome.answers) < 1.5 + 1.0 + 1.0 + 1.5, "patience, a tick, a load, work"


@SEEDS
def test_nobody_leaves_for_what_comes_back_by_itself(seed: int) -> None:
    clients = (once("m1", 0), again("m2", 15, pause_s=2), *(once("m1", 10.5 + n, name=f"c{n}") for n in range(10)))
    scenario = stage(16, 16, cards_gb=(24, 24), clients=clients, faults=(ENGINE,), load_s=1.0)
    outcome = simulate(scenario, seed)
    assert outcome.outcomes == {"served": 26}
    assert len(outcome.loads) == 2


@SEEDS
def test_one_that_comes_back_in_a_loads_time_is_waited_for(seed: int) -> None:
    clients = (once("m1", 0), *(once("m1", 10.5 + n / 4, name=f"c{n}") for n in range(10)))
    faults = (Fault(at_s=10, kind="engine", model="m1", for_s=0.5),)
    outcome = simulate(stage(16, cards_gb=(24, 24), clients=clients, faults=faults, load_s=2.0), seed)
    assert outcome.outcomes == {"served": 11}
    assert len(outcome.loads) == 1


@SEEDS
def test_a_neuron_started_again_is_believed_anew(seed: int) -> None:
    """Too quick for anybody to notice the silence: only its identity tells."""
    clients = (again("m1", 10, pause_s=2),)
    outcome = simulate(stage(16, clients=clients, faults=(Fault(at_s=12, kind="crash", for_s=0),)), seed)
    assert outcome.outcomes.get("served", 0) >= 9
    assert len(outcome.loads) == 2


@SEEDS
def test_a_partition_ends_streams_within_ten_seconds_and_heals(seed: int) -> None:
    clients = (once("m1", 0, tokens=4000), again("m1", 12, pause_s=3, name="c"))
    faults = (Fault(at_s=10, kind="partition", neuron="n1", for_s=30),)
    outcome = simulate(stage(16, clients=clients, faults=faults), seed)
    broken = ended_at(outcome, "cut") + ended_at(outcome, "broken")
    assert broken
    assert max(broken) < 10 + 10


@SEEDS
def test_a_short_partition_ends_nothing(seed: int) -> None:
    clients = (again("m1", 4, tokens=1000),)
    faults = (Fault(at_s=8, kind="partition", for_s=3), Fault(at_s=20, kind="partition", for_s=3))
    outcome = simulate(stage(16, clients=clients, faults=faults), seed)
    assert outcome.outcomes == {"served": 4}
    assert len(outcome.loads) == 1


@SEEDS
def test_r30_lost_polls_and_events_end_nothing(seed: int) -> None:
    """Half of them lost for ten minutes."""
    clients = tuple(again(f"m{1 + n % 2}", 40, pause_s=5, tokens=200, name=f"c{n}") for n in range(6))
    faults = (Fault(at_s=5, kind="loss", for_s=600, loss=0.5),)
    outcome = simulate(stage(16, 16, cards_gb=(24, 24), clients=clients, faults=faults), seed)
    assert outcome.outcomes == {"served": 240}
    assert outcome.cut == 0


@SEEDS
@pytest.mark.parametrize("scope", ["device", "neuron"])
def test_a_load_that_fails_here_is_tried_once_elsewhere(seed: int, scope: str) -> None:
    faults = tuple(
        Fault(at_s=0, kind="load", neuron=neuron, model="m1", load=LoadFault(fails_at=0.5, scope=scope))  # type: ignore[arg-type]
        for neuron in ("n1", "n2", "n3")
    )
    client = once("m1", 1, patience=0)
    outcome = simulate(stage(16, cards_gb=(24, 24, 24), clients=(client,), faults=faults), seed)
    assert outcome.outcomes == {"load_failed": 1}
    assert len(outcome.loads) == 2
    assert len({neuron for neuron, _ in outcome.loads}) == 2


@SEEDS
def test_a_load_that_failed_once_comes_right_for_who_comes_again(seed: int) -> None:
    fault = Fault(at_s=0, kind="load", model="m1", load=LoadFault(fails_at=0.5))
    outcome = simulate(stage(16, clients=(once("m1", 1),), faults=(fault,)), seed)
    assert outcome.outcomes == {"served": 1}
    assert len(outcome.loads) == 2


@SEEDS
@pytest.mark.parametrize("after_s", [0.0, 0.5, 2.0, 5.0, 5.002, 5.5, 6.5, 8.0])
def test_clients_may_leave_in_any_phase(seed: int, after_s: float) -> None:
    """Before a decision, while it loads, as it is granted, before and after the first token; nobody else notices."""
    leaver = Client(
        name="leaver", gateway="gw1", asks=(Ask(model="m1", after_s=1.0, tokens=400, leaves_after_s=after_s),)
    )
    outcome = simulate(stage(16, 16, clients=(leaver, once("m1", 1), once("m2", 2))), seed)
    assert sorted(answer.outcome for answer in outcome.answers) == ["left", "served", "served"]


@SEEDS
def test_a_gateway_that_dies_leaves_nothing_half_done(seed: int) -> None:
    """Its load goes on, its clients come again, and its successor joins what it finds."""
    clients = tuple(once("m1", 1, name=f"c{n}") for n in range(5))
    outcome = simulate(stage(16, clients=clients, faults=(Fault(at_s=3, kind="gateway"),)), seed)
    assert outcome.outcomes == {"served": 5}
    assert len(outcome.loads) == 1


@SEEDS
def test_a_cordoned_neuron_keeps_its_streams_and_takes_no_new(seed: int) -> None:
    faults = (Fault(at_s=10, kind="cordon", neuron="n1", for_s=30), Fault(at_s=10, kind="cordon", neuron="n2", for_s=1))
    clients = (again("m1", 10, pause_s=2, tokens=100), once("m1", 0, tokens=1000))
    outcome = simulate(stage(16, cards_gb=(24, 24), clients=clients, faults=faults), seed)
    assert outcome.outcomes == {"served": 11}
    assert outcome.cut == 0

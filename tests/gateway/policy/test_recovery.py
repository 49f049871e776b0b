"""When an engine died, as it is heard: in an event, or only by what became of its replica."""

from __future__ import annotations

import pytest

from cortex_core.fleet import State
from cortex_gateway.policy.recovery import note
from tests.gateway.policy.fleets import neuron, replica

HEARD: list[tuple[State | None, State, bool]] = [
    (State.READY, State.RECOVERING, True),
    (State.READY, State.LOADING, True),  # the event in between was lost
    (State.DRAINING, State.LOADING, True),
    (None, State.RECOVERING, True),
    (None, State.LOADING, False),
    (State.LOADING, State.LOADING, False),
    (State.SLEEPING, State.WAKING, False),
    (State.READY, State.DRAINING, False),
]


@pytest.mark.parametrize(("was", "now", "died"), HEARD)
def test_a_death_is_noted(was: State | None, now: State, died: bool) -> None:
    before = neuron("n1") if was is None else neuron("n1", replica("m1", state=was))
    book: dict[tuple[str, str], float] = {}
    note(book, before, neuron("n1", replica("m1", state=now)), 7.0)
    assert book == ({("n1", "m1"): 7.0} if died else {})


def test_its_time_runs_from_the_first_word_until_it_is_back() -> None:
    book = {("n1", "m1"): 7.0}
    there = {state: neuron("n1", replica("m1", state=state)) for state in State}
    note(book, there[State.RECOVERING], there[State.LOADING], 9.0)
    note(book, there[State.LOADING], there[State.RECOVERING], 11.0)
    assert book == {("n1", "m1"): 7.0}
    note(book, there[State.LOADING], there[State.READY], 12.0)
    assert book == {}

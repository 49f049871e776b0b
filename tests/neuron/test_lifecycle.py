"""The replica's states: what may follow what."""

from __future__ import annotations

import itertools

import pytest

from cortex_core.fleet import State
from neuron.supervisor.lifecycle import ENDS, STORY_LIMIT, TABLE, Event, Illegal, Life

WAYS = {
    "a load that succeeds, drains and ends": [
        (Event.LOAD, State.LOADING),
        (Event.SERVED, State.READY),
        (Event.DRAIN, State.DRAINING),
        (Event.UNLOAD, State.UNLOADING),
        (Event.ENDED, State.ABSENT),
    ],
    "a load that fails": [(Event.LOAD, State.LOADING), (Event.LOAD_FAILED, State.FAILED)],
    "a load that is called off": [
        (Event.LOAD, State.LOADING),
        (Event.UNLOAD, State.UNLOADING),
        (Event.ENDED, State.ABSENT),
    ],
    "a drain that ran out of time": [
        (Event.LOAD, State.LOADING),
        (Event.SERVED, State.READY),
        (Event.DRAIN, State.DRAINING),
        (Event.REOPEN, State.READY),
    ],
    "an engine that dies and comes back": [
        (Event.LOAD, State.LOADING),
        (Event.SERVED, State.READY),
        (Event.DIED, State.RECOVERING),
        (Event.LOAD, State.LOADING),
        (Event.RETRY, State.RECOVERING),
        (Event.LOAD, State.LOADING),
        (Event.SERVED, State.READY),
    ],
    "an engine that is given up": [
        (Event.LOAD, State.LOADING),
        (Event.SERVED, State.READY),
        (Event.DIED, State.RECOVERING),
        (Event.GIVE_UP, State.FAILED),
    ],
    "sleep and wake": [
        (Event.LOAD, State.LOADING),
        (Event.SERVED, State.READY),
        (Event.DRAIN, State.DRAINING),
        (Event.SLEEP, State.SLEEPING),
        (Event.WAKE, State.WAKING),
        (Event.SERVED, State.READY),
    ],
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_life_goes_its_way(way: list[tuple[Event, State]]) -> None:
    life = Life("r1")
    for event, after in way:
        assert life.can(event)
        assert life.advance(event) is after


@pytest.mark.parametrize(
    ("state", "event"), [pair for pair in itertools.product(State, Event) if pair not in TABLE], ids=str
)
def test_every_other_step_is_a_bug_and_tells_the_story(state: State, event: Event) -> None:
    life = Life("r7")
    life.advance(Event.LOAD)
    life.state = state
    assert not life.can(event)
    with pytest.raises(Illegal, match=rf"r7 is {state}, which cannot {event}; its story: absent -load-> loading"):
        life.advance(event)
    assert life.state is state


def test_every_state_is_reached_and_the_ends_are_final() -> None:
    reached, todo = {State.ABSENT}, [State.ABSENT]
    while todo:
        here = todo.pop()
        for (before, _), after in TABLE.items():
            if before is here and after not in reached:
                reached.add(after)
                todo.append(after)
    assert reached == set(State)
    assert {before for before, event in TABLE if event is not Event.LOAD} & ENDS == set()


def test_a_story_is_bounded() -> None:
    life = Life("r1")
    life.advance(Event.LOAD)
    life.advance(Event.SERVED)
    for _ in range(STORY_LIMIT):
        life.advance(Event.DRAIN)
        life.advance(Event.REOPEN)
    assert len(life.story) == STORY_LIMIT
    assert life.story[-1] == "draining -reopen-> ready"

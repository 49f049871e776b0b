"""The replica's life as a table: what may follow what, and nothing else may.

A replica is `absent` until it is asked for and after it is gone. Only `ready` takes requests. `draining` has its gate
closed while requests go on, and may open again. `recovering` is a replica whose engine died by itself: it keeps its
memory while it waits for its next start. `sleeping` has given its device memory back, but what a sleeping engine keeps;
it drains before, takes all of it again to wake, and is not revived when it dies. `failed` and `absent` are ends: who is
asked for again gets a new row.
"""

from __future__ import annotations

import enum

from cortex_core.fleet import State


class Event(enum.StrEnum):
    """What happens to a replica. Imperatives are ours, past tenses are the engine's."""

    LOAD = "load"  # start its engine
    SERVED = "served"  # the engine answers
    LOAD_FAILED = "load_failed"  # the engine did not come up
    DRAIN = "drain"  # close the gate
    REOPEN = "reopen"  # the drain ran out of time or was called off
    UNLOAD = "unload"  # end its engine
    ENDED = "ended"  # the engine is gone, as it was asked
    DIED = "died"  # the engine is gone, and nobody asked
    RETRY = "retry"  # its start failed, and another will follow
    GIVE_UP = "give_up"  # no further start
    SLEEP = "sleep"  # keep the weights in host memory only
    WAKE = "wake"


TABLE: dict[tuple[State, Event], State] = {
    (State.ABSENT, Event.LOAD): State.LOADING,
    (State.LOADING, Event.SERVED): State.READY,
    (State.LOADING, Event.LOAD_FAILED): State.FAILED,
    (State.LOADING, Event.RETRY): State.RECOVERING,
    (State.LOADING, Event.UNLOAD): State.UNLOADING,  # cancelled
    (State.READY, Event.DRAIN): State.DRAINING,
    (State.READY, Event.UNLOAD): State.UNLOADING,
    (State.READY, Event.DIED): State.RECOVERING,
    (State.DRAINING, Event.REOPEN): State.READY,
    (State.DRAINING, Event.UNLOAD): State.UNLOADING,
    (State.DRAINING, Event.DIED): State.RECOVERING,
    (State.DRAINING, Event.SLEEP): State.SLEEPING,
    (State.SLEEPING, Event.WAKE): State.WAKING,
    (State.SLEEPING, Event.UNLOAD): State.UNLOADING,
    (State.WAKING, Event.SERVED): State.READY,
    (State.WAKING, Event.SLEEP): State.SLEEPING,  # called off before it began
    (State.WAKING, Event.UNLOAD): State.UNLOADING,
    (State.WAKING, Event.DIED): State.RECOVERING,
    (State.RECOVERING, Event.LOAD): State.LOADING,
    (State.RECOVERING, Event.UNLOAD): State.UNLOADING,
    (State.RECOVERING, Event.GIVE_UP): State.FAILED,
    (State.UNLOADING, Event.ENDED): State.ABSENT,
}

ENDS = frozenset({State.ABSENT, State.FAILED})
STORY_LIMIT = 20  # steps kept of a replica's story


class Illegal(Exception):
    """A step that the table does not know: a bug of ours, told with the replica's whole story."""


class Life:
    """One replica's way through the table, with its last steps for whoever must explain it.

    Args:
        name: the replica's id.
    """

    __slots__ = ("name", "state", "story")

    def __init__(self, name: str) -> None:
        self.name = name
        self.state = State.ABSENT
        self.story: list[str] = []

    def advance(self, event: Event) -> State:
        """Take the step, and say where it led.

        Raises:
            Illegal: the table has no such step.
        """
        after = TABLE.get((self.state, event))
        if after is None:
            story = ", ".join(self.story) or "nothing yet"
            raise Illegal(f"replica {self.name} is {self.state.value}, which cannot {event.value}; its story: {story}")
        self.story = [*self.story[1 - STORY_LIMIT :], f"{self.state.value} -{event.value}-> {after.value}"]
        self.state = after
        return after

    def can(self, event: Event) -> bool:
        return (self.state, event) in TABLE

"""Replicas whose engine died and is being started again: how long to wait for one before looking elsewhere.

A start that has to begin with what its engine is forked from takes many times a load. Until about a load's time has
passed its waiters are best served there; then a second copy on memory that is free is better than nothing.
"""

from __future__ import annotations

from cortex_core.fleet import Neuron, Replica, State

LOADS = 1.5
LEAST_S = 1.0

COMING = frozenset({State.LOADING, State.RECOVERING, State.WAKING})
"""A replica that will take requests without anybody's doing."""


def note(fell_at: dict[tuple[str, str], float], before: Neuron, after: Neuron, now: float) -> None:
    """Keep when engines died, by (neuron, replica), for as long as they are not back."""
    if before.replicas is after.replicas:
        return
    was = {replica.id: replica.state for replica in before.replicas}
    for replica in after.replicas:
        key = (after.name, replica.id)
        if replica.state not in COMING:
            fell_at.pop(key, None)
        elif replica.state is State.RECOVERING or was.get(replica.id, replica.state) not in COMING | {State.SLEEPING}:
            fell_at.setdefault(key, now)


def is_late(replica: Replica, fell_at: float, load_s: float, now: float) -> bool:
    """Whether it should have been back by now."""
    return replica.state in COMING and now - fell_at > max(LOADS * (replica.load_s or load_s), LEAST_S)

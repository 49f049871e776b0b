"""Whose turn a device is: how long a resident stays while others wait, and when a wait has become too long.

Work-conserving: a resident without demand has no turn, for a strict minimum would make a user who alternates
between two models wait twice as long as no policy at all.
"""

from __future__ import annotations

from collections.abc import Collection

from cortex_core.fleet import Neuron, Profile
from cortex_gateway.policy.eviction import LOAD_MB_PER_S

TURN_LOADS = 4.0
TURN_MIN_S = 10.0


def turn_s(load_s: float) -> float:
    """How long a resident with demand keeps its place: long enough to be worth its load."""
    return max(TURN_LOADS * load_s, TURN_MIN_S)


def load_s(neuron: Neuron, profile: Profile, need_mb: int) -> float:
    """What its load there takes: measured, else estimated from its size."""
    known = neuron.known.get((profile.id, profile.digest))
    return known.load_s if known is not None and known.load_s else need_mb / LOAD_MB_PER_S


def overdue_s(loads_s: Collection[float]) -> float:
    """Who has waited for so long goes before priority: of models that wait and take so long to load, every one could
    have had its load and its turn, and whoever had its turn before them. The same for all, so that age decides."""
    times_s = [turn_s(load_s) + load_s for load_s in loads_s]
    return sum(times_s) + max(times_s)


def bound_s(load_s: float, drain_s: float, competing: int) -> float:
    """Within this every model with demand gets its turn, among `competing` others of like load."""
    return (turn_s(load_s) + drain_s + load_s) * (competing + 1)

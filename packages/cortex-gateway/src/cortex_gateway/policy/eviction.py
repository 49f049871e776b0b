"""Who leaves: of the replicas on a device, those whose going makes room."""

from __future__ import annotations

from collections.abc import Iterable

from cortex_core.fleet import Device, Neuron, Replica, State
from cortex_gateway.policy.picture import Picture

EVICTABLE = frozenset({State.READY, State.SLEEPING})


def may_leave(picture: Picture, neuron: Neuron, replica: Replica, condemned: set[tuple[str, str]]) -> str:
    """Empty when it may be let go now, else why not, for people."""
    profile = picture.fleet.profiles.get(replica.model)
    if replica.pinned or (profile is not None and neuron.name in profile.pinned_on):
        return "pinned"
    if (neuron.name, replica.id) in condemned:
        return "already leaving"
    if replica.state not in EVICTABLE:
        return replica.state
    if not picture.is_idle(neuron, replica):
        return "busy"
    if replica.evictable_in_s - max(0.0, picture.now - neuron.at) > 0:
        return "just loaded"
    return ""


def is_pinned(picture: Picture, neuron: Neuron, replica: Replica) -> bool:
    profile = picture.fleet.profiles.get(replica.model)
    return replica.pinned or (profile is not None and neuron.name in profile.pinned_on)


def victims(
    picture: Picture, neuron: Neuron, device: Device, missing_mb: int, candidates: Iterable[Replica]
) -> tuple[Replica, ...] | None:
    """The least recently used of the candidates that together free `missing_mb` on the device.

    One that turns out not to be needed, because a later one alone suffices, is spared. None: not enough.
    """
    chosen: list[Replica] = []
    freed = 0
    for replica in sorted(candidates, key=lambda r: (-picture.idle_s(neuron, r), r.id)):
        if freed >= missing_mb:
            break
        if replica.memory_on(device.id):
            chosen.append(replica)
            freed += replica.memory_on(device.id)
    if freed < missing_mb:
        return None
    for replica in tuple(chosen):
        if freed - replica.memory_on(device.id) >= missing_mb:
            chosen.remove(replica)
            freed -= replica.memory_on(device.id)
    return tuple(chosen)

"""After many swaps: bring idle replicas together, so that what no single device can hold fits on one again.

The contract has no move, so it is a load of the same model on another device that lets its own replica go.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from msgspec import structs

from cortex_core.fleet import Device, Neuron, Profile, Replica
from cortex_gateway.policy.eviction import may_leave
from cortex_gateway.policy.picture import Picture
from cortex_gateway.policy.placement import Candidate
from cortex_gateway.policy.schedule import Swap


def defragment(picture: Picture, cycles: Mapping[str, int], after: int, wanted: Collection[str]) -> list[Swap]:
    """One move for each neuron that had `after` swaps since the last, where a move lets a wanted model fit.

    Args:
        cycles: completed swaps of each neuron since its last defragmentation.
        after: `defrag_after_cycles`; 0 is never.
        wanted: models that wait, or were used lately.
    """
    if not after:
        return []
    moves = []
    for name, count in cycles.items():
        neuron = picture.fleet.neurons.get(name)
        if count >= after and neuron is not None and neuron.up and not neuron.cordoned:
            homeless = (model for model in wanted if next(picture.replicas(model), None) is None)
            profiles = [picture.fleet.profiles[model] for model in homeless if model in picture.fleet.profiles]
            move = next(filter(None, (_move(picture, neuron, profile) for profile in profiles)), None)
            if move is not None:
                moves.append(move)
    return moves


def _move(picture: Picture, neuron: Neuron, profile: Profile) -> Swap | None:
    """The move of one idle replica after which the profile fits on a single device, as it does not now."""
    need_mb = picture.need_mb(profile, neuron)
    free = {device.id: neuron.free_mb(device) for device in neuron.devices}
    if profile.min_devices > 1 or not need_mb or picture.busy_devices(neuron.name):
        return None
    if max(free.values(), default=0) >= need_mb or sum(free.values()) < need_mb:
        return None
    for replica, source in _movable(picture, neuron):
        size_mb = replica.memory_on(source.id)
        if replica.model == profile.id or free[source.id] + size_mb < need_mb:
            continue
        for target in neuron.devices:
            alike = (target.kind, target.name) == (source.kind, source.name)
            if target.id != source.id and alike and free[target.id] >= size_mb:
                candidate = Candidate(
                    neuron=neuron.name,
                    possible=True,
                    now=True,
                    reason=f"makes room for {profile.id} on {source.id}",
                    need_mb=size_mb,
                    shares=(structs.replace(replica.devices[0], id=target.id),),
                    victims=(replica,),
                )
                return Swap(model=replica.model, candidate=candidate, reason="defragment")
    return None


def _movable(picture: Picture, neuron: Neuron) -> Iterable[tuple[Replica, Device]]:
    """Idle replicas on one device each, the smallest first."""
    devices = {device.id: device for device in neuron.devices}
    movable = [
        (replica, devices[replica.devices[0].id])
        for replica in neuron.replicas
        if len(replica.devices) == 1 and not may_leave(picture, neuron, replica)
    ]

    def size(entry: tuple[Replica, Device]) -> tuple[int, str]:
        return (entry[0].memory_on(entry[1].id), entry[0].id)

    return sorted(movable, key=size)

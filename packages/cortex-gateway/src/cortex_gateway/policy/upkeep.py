"""What is done without anybody waiting: what is pinned is kept loaded, what is idle for too long is let go."""

from __future__ import annotations

from collections.abc import Collection

from msgspec import Struct

from cortex_core.fleet import Neuron, Profile, Replica, State
from cortex_gateway.policy.eviction import is_pinned, may_leave
from cortex_gateway.policy.picture import Picture
from cortex_gateway.policy.placement import first
from cortex_gateway.policy.schedule import Swap, with_intent
from cortex_gateway.policy.survey import EVICT, FREE
from cortex_gateway.policy.turns import turn_s

EXTRA_TURNS = 3.0
"""A replica beyond the first is let go when it was idle for so many turns."""


class LetGo(Struct, frozen=True, kw_only=True):
    """Unload it if it is still idle."""

    neuron: str
    replica: Replica
    reason: str


def upkeep(picture: Picture, wanted: Collection[str]) -> list[Swap | LetGo]:
    """What to load and what to let go by the profiles alone. `wanted`: models with waiters here. They come first, and
    those of other gateways as well: the moment in which a place is free for them is not the one to end it."""
    actions: list[Swap | LetGo] = []
    for profile in picture.fleet.profiles.values():
        if profile.id in wanted or profile.id in picture.elsewhere:
            continue
        for swap in _kept(picture, profile):
            actions.append(swap)
            picture = with_intent(picture, swap)
        actions += _let_go(picture, profile)
    return actions


def _kept(picture: Picture, profile: Profile) -> list[Swap]:
    """Loads that `pinned_on` and `replicas.min` ask for. A failed one is left to its back-off."""
    if not (profile.pinned_on or profile.replicas.min) or picture.is_under_way(profile.id):
        return []
    here = {neuron.name for neuron, _ in picture.replicas(profile.id)}
    pinned = [
        name
        for name in profile.pinned_on
        if name not in here and name in picture.fleet.neurons and picture.fleet.neurons[name].pins.get(profile.id, True)
    ]
    if not pinned and len(here) >= profile.replicas.min:
        return []
    names = pinned or [name for name in picture.fleet.neurons if name not in here]
    most = EVICT if pinned else FREE  # else models that are all to be kept would take turns for ever, for nobody
    found = first(picture, profile, [picture.fleet.neurons[name] for name in names], most=most)
    reason = "pinned" if pinned else "replicas.min"
    return [Swap(model=profile.id, candidate=found[0], reason=reason)] if found else []


def _let_go(picture: Picture, profile: Profile) -> list[LetGo]:
    """Idle past its time to live, or a further replica that nobody needed for a while."""
    resident = [
        (neuron, replica)
        for neuron, replica in picture.replicas(profile.id)
        if replica.state is State.READY and not is_pinned(picture, neuron, replica)
    ]
    spare = len(resident) - profile.replicas.min
    actions: list[LetGo] = []
    for neuron, replica in sorted(resident, key=lambda entry: -picture.idle_s(*entry)):
        reason = _why_go(picture, profile, neuron, replica, len(resident) - len(actions))
        if reason and spare > len(actions):
            actions.append(LetGo(neuron=neuron.name, replica=replica, reason=reason))
    return actions


def _why_go(picture: Picture, profile: Profile, neuron: Neuron, replica: Replica, count: int) -> str:
    if may_leave(picture, neuron, replica):
        return ""
    idle_s = picture.idle_s(neuron, replica)
    if profile.ttl_s and idle_s >= profile.ttl_s:
        return f"idle for {profile.ttl_s:.0f} s"
    if count > max(1, profile.replicas.min) and idle_s >= EXTRA_TURNS * turn_s(replica.load_s):
        return "one replica is enough"
    return ""

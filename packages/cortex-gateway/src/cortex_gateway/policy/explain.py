"""Would this request be served, where, after what, in about how long: the rules of `schedule`, for one request."""

from __future__ import annotations

from cortex_core.fleet import Neuron, Profile
from cortex_core.gateway_api import Explanation, Place
from cortex_gateway.policy import turns
from cortex_gateway.policy.picture import Picture
from cortex_gateway.policy.placement import Candidate, candidates
from cortex_gateway.policy.refuse import Refuse
from cortex_gateway.policy.schedule import Backlog, Swap, pick, place
from cortex_gateway.policy.survey import DRAIN


def explain(picture: Picture, model: str, key: str = "") -> Explanation:
    """What would happen to a request of the model that came now, behind those who wait already."""
    profile = picture.fleet.profiles.get(model)
    if profile is None:
        reason = f"{model} is not in the catalogue"
        return Explanation(model=model, outcome="refused", reason=reason, error="model_not_found")
    considered = candidates(picture, profile)
    found = pick(picture, model, key)
    if found is not None:
        reason = f"{model} is ready on {found[0].name}"
        return Explanation(
            model=model, outcome="served", reason=reason, neuron=found[0].name, places=_places(considered)
        )
    for intent in picture.intents.values():
        if intent.model == model:
            neuron = picture.fleet.neurons[intent.neuron]
            return _joins(picture, profile, neuron, picture.now - intent.since, considered)
    for neuron, replica in picture.replicas(model):
        if picture.is_coming(neuron, replica):
            spent_s = replica.progress * _load_s(picture, profile, neuron)
            return _joins(picture, profile, neuron, spent_s, considered)
    for neuron, replica in picture.ready(model):
        held_s = picture.held_s.get(model, 0.0)
        reason = f"{model} is full on {neuron.name} ({replica.in_flight} of {replica.max_in_flight} in flight)"
        return Explanation(
            model=model, outcome="queued", reason=reason, neuron=neuron.name, after_s=held_s, places=_places(considered)
        )
    return _placed(picture, profile, considered)


def _placed(picture: Picture, profile: Profile, considered: tuple[Candidate, ...]) -> Explanation:
    model = profile.id
    decided = place(picture, Backlog(model=model, waiters=1, oldest=picture.now))
    if isinstance(decided, Refuse):
        return Explanation(
            model=model, outcome="refused", reason=decided.message, error=decided.kind, places=_places(considered)
        )
    if isinstance(decided, Swap):
        candidate = decided.candidate
        neuron = picture.fleet.neurons[candidate.neuron]
        known = neuron.known.get((model, profile.digest))
        load_s = known.wake_s if candidate.wakes and known is not None else _load_s(picture, profile, neuron)
        drain_s = picture.held_s.get(candidate.victims[0].model, 0.0) if candidate.tier == DRAIN else 0.0
        return Explanation(
            model=model,
            outcome="loads",
            reason=f"{model} {candidate.reason} on {candidate.neuron}",
            neuron=candidate.neuron,
            after_s=load_s + drain_s,
            must_leave=tuple(replica.model for replica in candidate.victims),
            places=_places(considered),
        )
    reasons = "; ".join(f"{c.neuron}: {c.reason}" for c in considered if c.possible)
    return Explanation(
        model=model, outcome="waits", reason=reasons, after_s=_turn_left_s(picture, profile), places=_places(considered)
    )


def _joins(
    picture: Picture, profile: Profile, neuron: Neuron, spent_s: float, considered: tuple[Candidate, ...]
) -> Explanation:
    return Explanation(
        model=profile.id,
        outcome="joins a load",
        reason=f"{profile.id} is loading on {neuron.name}",
        neuron=neuron.name,
        after_s=max(0.0, _load_s(picture, profile, neuron) - spent_s),
        places=_places(considered),
    )


def _places(considered: tuple[Candidate, ...]) -> tuple[Place, ...]:
    return tuple(candidate.place() for candidate in considered)


def _turn_left_s(picture: Picture, profile: Profile) -> float:
    """Until the first resident's turn ends anywhere, and the load after it."""
    left = [
        max(0.0, replica.evictable_in_s - (picture.now - neuron.at)) + _load_s(picture, profile, neuron)
        for neuron in picture.fleet.neurons.values()
        if neuron.up
        for replica in neuron.replicas
    ]
    return min(left, default=0.0)


def _load_s(picture: Picture, profile: Profile, neuron: Neuron) -> float:
    return turns.load_s(neuron, profile, picture.need_mb(profile, neuron))

"""What is known of a model now, for the translation of its requests."""

from __future__ import annotations

from msgspec import structs

from cortex_core.fleet import Fleet, ModelFacts, Profile, Replica, State

UNKNOWN = ModelFacts()


def facts(fleet: Fleet, profile: Profile) -> ModelFacts:
    """What translation may count on; where nothing is known, what suits every model."""
    contexts = [replica.context for replica in _replicas(fleet, profile) if replica.context]
    if not contexts:
        checkpoints = [neuron.checkpoint(profile) for neuron in fleet.neurons.values() if neuron.up]
        contexts = [checkpoint.context for checkpoint in checkpoints if checkpoint is not None and checkpoint.context]
    if profile.limit.context:
        contexts.append(profile.limit.context)
    return structs.replace(told(fleet, profile) or UNKNOWN, context=min(contexts, default=0))


def untold(fleet: Fleet, profile: Profile) -> bool:
    """Whether nobody knows it yet, and a load will tell."""
    ready = any(replica.state is State.READY for replica in _replicas(fleet, profile))
    return not ready and told(fleet, profile) is None


def told(fleet: Fleet, profile: Profile) -> ModelFacts | None:
    """By the replicas where it is loaded, else by the neurons that learned of it; None: nobody knows."""
    found = [replica.facts for replica in _replicas(fleet, profile)]
    learned = [neuron.known.get((profile.id, profile.digest)) for neuron in fleet.neurons.values() if neuron.up]
    found += [known.facts for known in learned if known is not None]
    return next((one for one in found if one is not None), None)


def capabilities(fleet: Fleet, profile: Profile) -> tuple[str, ...]:
    """What the catalogue says that a model can, else what it was seen to."""
    known = told(fleet, profile)
    if profile.capabilities or known is None:
        return profile.capabilities
    can = {"vision": known.vision, "tools": known.tools, "reasoning": known.reasoning}
    return tuple(name for name, does in can.items() if does)


def _replicas(fleet: Fleet, profile: Profile) -> list[Replica]:
    places = fleet.resident.get(profile.id, ())
    found = [fleet.neurons[name].replica(replica_id) for name, replica_id in places]
    return [replica for replica in found if replica is not None]

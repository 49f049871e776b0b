"""What is known of a model now, for the translation of its requests."""

from __future__ import annotations

from msgspec import structs

from cortex_core.fleet import Fleet, ModelFacts, Profile

UNKNOWN = ModelFacts()


def facts(fleet: Fleet, profile: Profile) -> ModelFacts:
    """From the replicas where it is loaded, else from what lies in the neurons' folders."""
    contexts = [
        replica.context
        for name, replica_id in fleet.resident.get(profile.id, ())
        if (replica := fleet.neurons[name].replica(replica_id)) is not None and replica.context
    ]
    if not contexts:
        checkpoints = [neuron.checkpoint(profile) for neuron in fleet.neurons.values() if neuron.up]
        contexts = [checkpoint.context for checkpoint in checkpoints if checkpoint is not None and checkpoint.context]
    if profile.limit.context:
        contexts.append(profile.limit.context)
    return structs.replace(UNKNOWN, context=min(contexts)) if contexts else UNKNOWN

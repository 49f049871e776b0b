"""What is known of a model now, for the translation of its requests."""

from __future__ import annotations

from msgspec import structs

from cortex_core.fleet import Fleet, ModelFacts, Profile

UNKNOWN = ModelFacts()


def facts(fleet: Fleet, profile: Profile) -> ModelFacts:
    """From the replicas where it is loaded, else from what neurons learned of it and what lies in their folders."""
    replicas = [
        replica
        for name, replica_id in fleet.resident.get(profile.id, ())
        if (replica := fleet.neurons[name].replica(replica_id)) is not None
    ]
    neurons = [neuron for neuron in fleet.neurons.values() if neuron.up]
    known = [replica.facts for replica in replicas]
    known += [one.facts for neuron in neurons if (one := neuron.known.get((profile.id, profile.digest))) is not None]
    contexts = [replica.context for replica in replicas if replica.context]
    if not contexts:
        checkpoints = [neuron.checkpoint(profile) for neuron in neurons]
        contexts = [checkpoint.context for checkpoint in checkpoints if checkpoint is not None and checkpoint.context]
    if profile.limit.context:
        contexts.append(profile.limit.context)
    found = next((one for one in known if one is not None), UNKNOWN)
    return structs.replace(found, context=min(contexts, default=0))

"""What a decision is made on: the fleet, and what this gateway itself holds and has under way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import Struct

from cortex_core.fleet import Fleet, Neuron, Profile, Replica, Share, State

Key = tuple[str, str]  # (neuron, replica id)

UNDER_WAY = frozenset({State.LOADING, State.RECOVERING, State.WAKING})


class Intent(Struct, frozen=True, kw_only=True):
    """A swap that this gateway has decided and not yet heard the end of."""

    operation_id: str
    model: str
    neuron: str
    devices: tuple[Share, ...]
    victims: tuple[str, ...] = ()
    since: float = 0.0


class Picture(Struct, frozen=True, kw_only=True):
    """Read-only views of the dispatcher's state; nothing here is copied for a decision."""

    fleet: Fleet
    now: float
    leases: Mapping[Key, int] = {}  # of this gateway
    used_at: Mapping[Key, float] = {}  # when this gateway's last lease on it ended
    intents: Mapping[str, Intent] = {}  # by operation id
    needs_mb: Mapping[str, int] = {}  # model → what a neuron said that it needs
    paused: Mapping[Key, float] = {}  # (neuron, model) → not before, after a refusal

    def replicas(self, model: str) -> Iterator[tuple[Neuron, Replica]]:
        """Those of one model on neurons that are up, through the fleet's index."""
        for name, replica_id in self.fleet.resident.get(model, ()):
            neuron = self.fleet.neurons[name]
            if neuron.up:
                replica = neuron.replica(replica_id)
                if replica is not None:
                    yield neuron, replica

    def condemned(self) -> set[Key]:
        """Replicas that a swap under way lets go."""
        return {(intent.neuron, victim) for intent in self.intents.values() for victim in intent.victims}

    def is_under_way(self, model: str) -> bool:
        """Whether a load of it will end without our doing: joined, never started twice."""
        if any(intent.model == model for intent in self.intents.values()):
            return True
        return any(replica.state in UNDER_WAY for _, replica in self.replicas(model))

    def busy_devices(self, neuron: str) -> set[str]:
        """Devices on which something is being moved: one swap at a time for a device."""
        busy = {share.id for i in self.intents.values() if i.neuron == neuron for share in i.devices}
        for replica in self.fleet.neurons[neuron].replicas:
            if replica.state in UNDER_WAY or replica.state is State.UNLOADING:
                busy.update(share.id for share in replica.devices)
        return busy

    def is_idle(self, neuron: Neuron, replica: Replica) -> bool:
        """Nobody holds a lease on it, as far as can be known here; the neuron has the last word."""
        return not self.leases.get((neuron.name, replica.id)) and replica.in_flight == 0 and replica.queue == 0

    def idle_s(self, neuron: Neuron, replica: Replica) -> float:
        """Since its last request ended, from any gateway."""
        reported = replica.idle_s + max(0.0, self.now - neuron.at)
        used_at = self.used_at.get((neuron.name, replica.id))
        return reported if used_at is None else min(reported, self.now - used_at)

    def need_mb(self, profile: Profile, neuron: Neuron) -> int:
        """What the model takes there in all, in megabytes; 0: unknown here, the neuron will fit it."""
        if profile.vram_mb:
            return profile.vram_mb
        for known in neuron.known:
            if (known.model, known.digest) == (profile.id, profile.digest) and known.weights_mb:
                return known.weights_mb + known.overhead_mb
        checkpoint = neuron.checkpoint(profile)
        if checkpoint is not None and checkpoint.need_mb:
            return checkpoint.need_mb
        return self.needs_mb.get(profile.id, 0)

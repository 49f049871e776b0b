"""What a decision is made on: the fleet, and what this gateway itself holds and has under way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Literal

from msgspec import Struct, field

from cortex_core.fleet import Failure, Fleet, Neuron, Profile, Replica, Share, State
from cortex_gateway.policy.breaker import Breaker
from cortex_gateway.policy.recovery import COMING, is_late
from cortex_gateway.policy.survey import Surveys

Key = tuple[str, str]  # (neuron, replica id), or (neuron, model) where said so

_READY = State.READY


class Intent(Struct, frozen=True, kw_only=True):
    """A swap that this gateway has decided and not yet heard the end of."""

    operation_id: str
    model: str
    neuron: str
    devices: tuple[Share, ...]
    victims: tuple[str, ...] = ()
    since: float = 0.0


class Picture(Struct, frozen=True, kw_only=True, dict=True):
    """Read-only views of the dispatcher's state, for the decisions of one moment; nothing here is copied for them."""

    fleet: Fleet
    now: float
    strategy: Literal["cost", "lru", "priority"] = "cost"
    gateway: str = ""  # our own name, to tell our demand from others'
    leases: Mapping[Key, int] = {}  # of this gateway
    used_at: Mapping[Key, float] = {}  # when this gateway's last lease on it ended
    intents: Mapping[str, Intent] = {}  # by operation id
    needs_mb: Mapping[str, int] = {}  # model → what a neuron said that it needs
    paused: Mapping[Key, float] = {}  # (neuron, replica or model) → not before, after a refusal
    caps: Mapping[Key, int] = {}  # leases that a replica took of us when it last said that it was full
    breakers: Mapping[Key, Breaker] = {}
    pace_s: Mapping[Key, float] = {}  # seconds to a first token lately
    held_s: Mapping[str, float] = {}  # model → how long a lease is held, lately
    fell_at: Mapping[Key, float] = {}  # when the engine of a replica died that is not back yet
    surveys: Surveys = field(default_factory=Surveys)

    def replicas(self, model: str) -> Iterator[tuple[Neuron, Replica]]:
        """Those of one model on neurons that are up, through the fleet's index."""
        for name, replica_id in self.fleet.resident.get(model, ()):
            neuron = self.fleet.neurons[name]
            if neuron.up:
                replica = neuron.replica(replica_id)
                if replica is not None:
                    yield neuron, replica

    def ready(self, model: str) -> list[tuple[Neuron, Replica]]:
        """Those that take new requests, as far as is known here. Asked for each request: hence one plain loop."""
        found: list[tuple[Neuron, Replica]] = []
        for key in self.fleet.resident.get(model, ()):
            neuron = self.fleet.neurons[key[0]]
            if neuron.up and not neuron.cordoned:
                replica = neuron.replica(key[1])
                if replica is not None and replica.state is _READY and not (self.intents and key in self.condemned):
                    found.append((neuron, replica))
        return found

    @cached_property
    def condemned(self) -> set[Key]:
        """Replicas that a swap under way lets go."""
        return {(intent.neuron, victim) for intent in self.intents.values() for victim in intent.victims}

    @cached_property
    def _intended_models(self) -> set[str]:
        return {intent.model for intent in self.intents.values()}

    @cached_property
    def _intended(self) -> dict[str, set[str]]:
        """Neuron → devices on which a swap of ours moves something."""
        devices: dict[str, set[str]] = {}
        for intent in self.intents.values():
            devices.setdefault(intent.neuron, set()).update(share.id for share in intent.devices)
        return devices

    def is_under_way(self, model: str) -> bool:
        """Whether a load of it will end without our doing: joined, never started twice."""
        if model in self._intended_models:
            return True
        return any(self.is_coming(neuron, replica) for neuron, replica in self.replicas(model))

    def is_coming(self, neuron: Neuron, replica: Replica) -> bool:
        """Whether it will take requests soon, as loads go."""
        if replica.state not in COMING:
            return False
        fell_at = self.fell_at.get((neuron.name, replica.id))
        if fell_at is None:
            return True
        known = neuron.known.get((replica.model, replica.digest))
        return not is_late(replica, fell_at, known.load_s if known is not None else 0.0, self.now)

    def busy_devices(self, neuron: str) -> set[str]:
        """Devices on which something is being moved: one swap at a time for a device."""
        busy = set(self._intended.get(neuron, ()))
        for replica in self.fleet.neurons[neuron].replicas:
            if replica.state in COMING or replica.state is State.UNLOADING:
                busy.update(share.id for share in replica.devices)
        return busy

    def room(self, neuron: Neuron, replica: Replica) -> int:
        """How many more leases this gateway may hold on it: its slots, and its small queue so that none stays idle."""
        key = (neuron.name, replica.id)
        if self.paused and self.paused.get(key, 0.0) > self.now:
            return 0
        most = replica.max_in_flight + replica.max_queue_depth if replica.max_in_flight else 1 << 30
        if self.caps:
            most = min(most, self.caps.get(key, most))
        return max(0, most - self.leases.get(key, 0))

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
        known = neuron.known.get((profile.id, profile.digest))
        if known is not None and known.weights_mb:
            return known.weights_mb + known.overhead_mb
        checkpoint = neuron.checkpoint(profile)
        if checkpoint is not None and checkpoint.need_mb:
            return checkpoint.need_mb
        return self.needs_mb.get(profile.id, 0)

    def failures(self, profile: Profile) -> list[tuple[Neuron, Failure, float]]:
        """Loads of it that failed and must not be tried again yet: where, how, and for how many seconds."""
        failed = (neuron for neuron in self.fleet.neurons.values() if neuron.failures)
        return [(neuron, *found) for neuron in failed if (found := self.failure(profile, neuron)) is not None]

    def failure(self, profile: Profile, neuron: Neuron) -> tuple[Failure, float] | None:
        """The load of it that failed there and must not be tried again for so many seconds."""
        for failure in neuron.failures:
            if (failure.model, failure.digest) == (profile.id, profile.digest):
                wait_s = failure.retry_in_s - max(0.0, self.now - neuron.at)
                if wait_s > 0:
                    return failure, wait_s
        return None

    @cached_property
    def elsewhere(self) -> dict[str, float]:
        """Model → since when the oldest of those that wait at other gateways does (monotonic, ours)."""
        oldest: dict[str, float] = {}
        for neuron in self.fleet.neurons.values():
            for gateway, models in neuron.demand.items() if neuron.up else ():  # else it told that long ago
                if gateway != self.gateway:
                    for model, demand in models.items():
                        since = neuron.at - demand.oldest_wait_s
                        oldest[model] = min(since, oldest.get(model, since))
        return oldest

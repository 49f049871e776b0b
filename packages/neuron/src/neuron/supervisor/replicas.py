"""The replicas of this neuron: the one list that everything is reported from, and the account of their memory.

The supervisor decides, `EngineKeeper` carries out. Between a decision and the change it makes nothing awaits, so there
are no locks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec import structs

from cortex_core.fleet import Demand, Profile, Replica, State
from cortex_core.neuron_api import ReplicaEvent
from neuron.engines.base import LoadSpec
from neuron.sizing.checkpoints import Facts as Checkpoint
from neuron.sizing.fit import Fit
from neuron.supervisor.lifecycle import Event
from neuron.supervisor.parts import Parts
from neuron.supervisor.refusals import Refused
from neuron.supervisor.resident import Resident

GATEWAYS_MOST = 64  # that post their demand
DEMAND_S = 3.0  # how long a gateway's demand lives


class Replicas:
    """Sole owner of the residents."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._config = parts.config
        self._host = parts.host
        self._learned = parts.learned
        self._hub = parts.hub
        self._clock = parts.clock
        self._residents: dict[str, Resident] = {}
        self._made = 0
        self._started = 0
        self._demand: dict[str, tuple[float, dict[str, Demand]]] = {}  # gateway → when, model → demand
        self.closing = False

    # What there is

    def __iter__(self) -> Iterator[Resident]:
        return iter(self._residents.values())

    def get(self, replica_id: str) -> Resident | None:
        return self._residents.get(replica_id)

    def of(self, model: str) -> list[Resident]:
        """The residents of a model, those that go on first."""
        found = [resident for resident in self._residents.values() if resident.model == model]
        return sorted(found, key=lambda r: r.claimed_by is not None or r.state in (State.UNLOADING, State.DRAINING))

    def serving(self, model: str) -> list[Resident]:
        """The residents that answer for a name: of that model, else with an adapter of that name."""
        return self.of(model) or [resident for resident in self if model in resident.profile.adapters]

    def held_mb(self) -> dict[str, int]:
        """Device → what all replicas hold of it."""
        held: dict[str, int] = {}
        for resident in self._residents.values():
            for device in resident.devices:
                held[device] = held.get(device, 0) + resident.held_mb(device)
        return held

    def free_mb(self) -> dict[str, int]:
        """Device → what nobody holds. Negative where a stranger took what was promised."""
        held = self.held_mb()
        return {d.id: d.memory_mb - d.used_by_others_mb - held.get(d.id, 0) for d in self._host.devices(held)}

    def pinned(self, resident: Resident) -> bool:
        return self._learned.pinned(resident.model)

    def evictable_in_s(self, resident: Resident) -> float:
        return resident.evictable_in_s(self.demanded(resident.model))

    def view(self, resident: Resident) -> Replica:
        return resident.view(pinned=self.pinned(resident), demanded=self.demanded(resident.model))

    def views(self) -> tuple[Replica, ...]:
        return tuple(self.view(resident) for resident in self._residents.values())

    def with_state(self, refused: Refused, model: str, *replicas: str) -> Refused:
        """The refusal with what its caller has to decide anew on: the replicas of the model, and these."""
        about = {r.id: r for r in self.of(model)} if model else {}
        about |= {found.id: found for name in replicas if (found := self.get(name)) is not None}
        views = tuple(self.view(resident) for resident in about.values())
        refused.refusal = structs.replace(refused.refusal, instance_id=self._parts.instance_id, replicas=views)
        return refused

    def publish(self, resident: Resident) -> None:
        resident.note()
        self._hub.replica(ReplicaEvent(seq=self._hub.number(), replica=self.view(resident)))

    # Demand

    def demand(self, gateway: str, models: dict[str, Demand]) -> None:
        if gateway not in self._demand and len(self.demands()) >= GATEWAYS_MOST:
            raise Refused("full", f"{GATEWAYS_MOST} gateways post their demand already", retry_in_s=DEMAND_S)
        if self.demands().get(gateway, {}).keys() != models.keys():
            self._hub.beat_due.set()  # turns begin and end with demand
        self._demand[gateway] = (self._clock(), models)
        every = self.demands()
        for resident in self._residents.values():
            told = ((name, of_models.get(resident.model)) for name, of_models in every.items())
            resident.gate.posted = {name: demand.waiters for name, demand in told if demand is not None}
        self._hub.demand(every)

    def demands(self) -> dict[str, dict[str, Demand]]:
        """Gateway → model → demand, of the last three seconds."""
        limit = self._clock() - DEMAND_S
        self._demand = {gateway: entry for gateway, entry in self._demand.items() if entry[0] > limit}
        return {gateway: models for gateway, (_, models) in self._demand.items()}

    def demanded(self, model: str) -> bool:
        return any(model in models and models[model].waiters > 0 for models in self.demands().values())

    # A replica's begin

    def add(self, profile: Profile, checkpoint: Checkpoint, fitted: Fit, victims: Sequence[Resident]) -> Resident:
        """Reserve the memory: from here on nobody else gets it. The victims' gates close in the same breath."""
        self._made += 1
        resident = Resident(f"{self._parts.instance_id}-{self._made}", profile, checkpoint, self._clock)
        resident.shares = fitted.shares
        resident.guard_s = self._config.engine.turn_guard_s
        resident.context = fitted.context
        resident.asleep_mb = fitted.overhead_mb
        self._started += 1
        resident.spec = LoadSpec(
            replica=resident.id,
            model=profile.id,
            checkpoint=checkpoint.path if checkpoint.architecture else None,
            devices=resident.devices,
            memory_mb=min(share.memory_mb for share in fitted.shares),
            kv_cache_mb=fitted.kv_cache_mb,
            context=fitted.context,
            options=dict(profile.engine),
            startup=profile.startup,
            adapters={name: self._host.models_dir / folder for name, folder in profile.adapters.items()},
            socket=Path(self._config.neuron.run_dir) / f"{self._started}.sock",
            log=Path(self._config.neuron.state_dir) / "logs" / f"{resident.id}.log",
        )
        known = self._learned.known(profile.id, profile.digest, self._host.kind)
        resident.expected_load_s = known.load_s if known else 0.0
        resident.advance(Event.LOAD)
        resident.load_began = self._clock()
        self._residents[resident.id] = resident
        self.claim(resident, victims)
        self.publish(resident)
        return resident

    def claim(self, resident: Resident, victims: Sequence[Resident]) -> None:
        """What these hold is promised to it; their gates close in the same breath."""
        resident.victims = list(victims)
        for victim in victims:
            victim.claimed_by = resident
            self.close_gate(victim, f"it makes room for {resident.model}")
            self.publish(victim)

    def move(self, resident: Resident, fitted: Fit) -> None:
        """Give it other devices. Nothing of it runs on those it had."""
        assert resident.spec is not None
        resident.shares = fitted.shares
        resident.context = fitted.context
        resident.spec = structs.replace(
            resident.spec,
            devices=resident.devices,
            memory_mb=min(share.memory_mb for share in fitted.shares),
            kv_cache_mb=fitted.kv_cache_mb,
            context=fitted.context,
        )

    def drop(self, resident: Resident) -> list[Resident]:
        """It is gone: out of the list. Returns who was promised to it, and stays after all."""
        self._residents.pop(resident.id, None)
        self.unclaim(resident)
        resident.shares = ()
        victims, resident.victims = resident.victims, []
        return victims

    def unclaim(self, resident: Resident) -> None:
        """It has made room for whom it was promised to."""
        resident.claimed_by = None
        for other in self._residents.values():
            if resident in other.victims:
                other.victims.remove(resident)

    # Its gate

    def close_gate(self, resident: Resident, reason: str) -> None:
        """Nobody gets in any more; who is in goes on."""
        if resident.life.can(Event.DRAIN):
            resident.advance(Event.DRAIN, reason)
        resident.gate.close(Refused("draining", f"{resident.model} drains: {reason}"))

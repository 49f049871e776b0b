"""The merged list of models: every profile, with where it is loaded and where it could be."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from msgspec import UNSET, UnsetType, ValidationError, convert

from cortex_core.fleet import Checkpoint, Cost, Device, Fleet, Limit, ModelId, Neuron, Profile, Replica, State
from cortex_core.gateway_api import Location, Meta, Model, Status
from cortex_gateway.policy.facts import capabilities
from cortex_gateway.policy.picture import Picture

SERVES = frozenset({State.READY, State.DRAINING, State.SLEEPING})


class Merged:
    """The list, kept cheap for many models on many neurons: what a neuron could hold is worked out again only when
    its devices, its model folder, what it learned or the profiles have changed."""

    def __init__(self) -> None:
        self._feasible: dict[str, tuple[object, Mapping[str, int]]] = {}

    def models(self, fleet: Fleet) -> tuple[Model, ...]:
        feasible = {name: self._feasible_on(fleet, neuron) for name, neuron in fleet.neurons.items() if neuron.up}
        return tuple(self._entry(fleet, profile, feasible) for profile in fleet.profiles.values())

    def model(self, fleet: Fleet, model: str) -> Model | None:
        profile = fleet.profiles.get(model)
        if profile is None:
            return None
        feasible = {name: self._feasible_on(fleet, neuron) for name, neuron in fleet.neurons.items() if neuron.up}
        return self._entry(fleet, profile, feasible)

    def _feasible_on(self, fleet: Fleet, neuron: Neuron) -> Mapping[str, int]:
        sizes = tuple((device.id, device.memory_mb, device.name) for device in neuron.devices)
        key = (fleet.profiles, neuron.checkpoints, neuron.known, neuron.simulated, sizes)
        kept = self._feasible.get(neuron.name)
        if kept is None or kept[0] != key:
            kept = self._feasible[neuron.name] = (key, feasible(fleet, neuron))
        return kept[1]

    def _entry(self, fleet: Fleet, profile: Profile, feasible_by: Mapping[str, Mapping[str, int]]) -> Model:
        replicas = [
            (name, replica)
            for name, replica_id in fleet.resident.get(profile.id, ())
            if (replica := fleet.neurons[name].replica(replica_id)) is not None and fleet.neurons[name].up
        ]
        context = _context(profile, replicas, feasible_by)
        limit = profile.limit
        return Model(
            id=profile.id,
            loaded=any(replica.state in SERVES for _, replica in replicas),
            status=_status({replica.state for _, replica in replicas}),
            feasible_on=tuple(name for name, models in feasible_by.items() if profile.id in models),
            locations=tuple(
                Location(
                    neuron=name,
                    state=replica.state,
                    vram_mb=sum(share.memory_mb for share in replica.devices),
                    phase=replica.phase,
                    progress=replica.progress,
                    simulated=replica.simulated,
                )
                for name, replica in replicas
            ),
            capabilities=capabilities(fleet, profile),
            limit=limit if limit != Limit() else UNSET,
            cost=profile.cost if profile.cost != Cost() else UNSET,
            max_model_len=context or UNSET,
            max_input_tokens=limit.input or _input(context, limit),
            max_output_tokens=limit.output or UNSET,
            meta=Meta(context) if context else UNSET,
        )


def statuses(fleet: Fleet) -> dict[str, str]:
    """Model → what the list calls it: loaded, loading, sleeping, unloaded."""
    states: dict[str, set[State]] = {model: set() for model in fleet.profiles}
    for neuron in fleet.neurons.values():
        for replica in neuron.replicas if neuron.up else ():
            if replica.model in states:
                states[replica.model].add(replica.state)
    return {model: _status(found).value for model, found in states.items()}


def feasible(fleet: Fleet, neuron: Neuron) -> dict[str, int]:
    """The profiles that an empty `neuron` could hold, with the context in tokens that the checkpoint promises."""
    picture = Picture(fleet=fleet, now=0.0)
    found = {}
    for profile in fleet.profiles.values():
        checkpoint = neuron.checkpoint(profile)
        if _can_serve(checkpoint, neuron) and _has_room(neuron.devices, profile, picture.need_mb(profile, neuron)):
            found[profile.id] = checkpoint.context if checkpoint is not None else 0
    return found


def offered(neuron: Neuron) -> frozenset[str]:
    """The models that it holds, and those that lie in its model folder and can be served."""
    lie = (checkpoint.name for checkpoint in neuron.checkpoints.values() if not checkpoint.problem)
    return frozenset(lie).union(replica.model for replica in neuron.replicas)


def as_profiles(names: Iterable[str]) -> dict[str, Profile]:
    """Those of the names that a model may have, as profiles that say nothing further."""
    return {name: Profile(id=name) for name in sorted(names) if _is_model_id(name)}


def _is_model_id(name: str) -> bool:
    try:
        convert(name, ModelId)
    except ValidationError:
        return False
    return True


def _can_serve(checkpoint: Checkpoint | None, neuron: Neuron) -> bool:
    return neuron.simulated if checkpoint is None else not checkpoint.problem


def _has_room(devices: tuple[Device, ...], profile: Profile, need_mb: int) -> bool:
    """Whether so many like devices are large enough."""
    share_mb = max(profile.min_device_vram_mb, -(-need_mb // profile.min_devices))
    kinds = [(device.kind, device.name, device.memory_mb) for device in devices if device.memory_mb >= share_mb]
    return any(kinds.count(kind) >= profile.min_devices for kind in kinds)


def _status(states: Collection[State]) -> Status:
    """The best that a model's replicas are, in llama.cpp's four words."""
    if State.READY in states or State.DRAINING in states:
        return Status("loaded")
    if any(state in states for state in (State.LOADING, State.WAKING, State.RECOVERING)):
        return Status("loading")
    return Status("sleeping" if State.SLEEPING in states else "unloaded")


def _context(
    profile: Profile, replicas: list[tuple[str, Replica]], feasible_by: Mapping[str, Mapping[str, int]]
) -> int:
    """Tokens of context: the tightest of the replicas that serve, else what is known before any load; 0: nothing."""
    serving = [replica.context for _, replica in replicas if replica.state in SERVES and replica.context]
    if not serving and not profile.limit.context:
        serving = [context for models in feasible_by.values() if (context := models.get(profile.id, 0))]
    return min([*serving, profile.limit.context] if profile.limit.context else serving, default=0)


def _input(context: int, limit: Limit) -> int | UnsetType:
    """The original's rule: what the output does not need."""
    return context - limit.output if limit.output and context > limit.output else UNSET

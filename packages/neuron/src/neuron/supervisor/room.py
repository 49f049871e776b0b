"""Where a load goes, and who may leave for it: the answer, or a refusal with the numbers. Changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import structs

from cortex_core.fleet import Known, Profile, State
from cortex_core.neuron_api import LoadRequest, Victim
from neuron.sizing.checkpoints import Facts as Checkpoint
from neuron.sizing.fit import CannotFit, Fit, Need, fit
from neuron.supervisor.parts import Parts
from neuron.supervisor.refusals import Refused
from neuron.supervisor.replicas import Replicas
from neuron.supervisor.resident import Resident

HOST_LEAST_MB = 2048  # of host memory that sleeping replicas leave to everybody else


class Room:
    """Asked by the supervisor in the moment in which it decides."""

    def __init__(self, parts: Parts, replicas: Replicas) -> None:
        self._config = parts.config
        self._host = parts.host
        self._owners = parts.owners
        self._learned = parts.learned
        self._replicas = replicas

    def checkpoint(self, profile: Profile) -> Checkpoint:
        name = profile.source or profile.id
        found = self._host.checkpoints.get(name)
        problem = found and (found.problem or self._owners.unknown(found.architecture))
        if problem:
            raise Refused("bad_request", f"{name} cannot be served: {problem}", field="profile.source")
        if found is not None:
            return found
        if not self._host.simulated:
            raise Refused("not_found", f"there is no checkpoint {name} in {self._host.models_dir}", field="model")
        return Checkpoint(name=name, path=Path())

    def victim(self, victim: Victim, model: str) -> Resident:
        """The replica that a load of `model` wants gone, if it may have it."""
        resident = self._replicas.get(victim.replica)
        if resident is None or resident.version != victim.version or resident.claimed_by is not None:
            raise Refused("outrun", f"replica {victim.replica} is not what it was", field="evict")
        if resident.state not in (State.READY, State.SLEEPING, State.RECOVERING):
            raise Refused("outrun", f"replica {victim.replica} is {resident.state}", field="evict")
        if self._replicas.pinned(resident) and resident.model != model:
            raise Refused("busy", f"{resident.model} is pinned here", field="evict")
        if victim.mode == "idle" and resident.gate.demand:
            text = f"{resident.model} has {resident.gate.in_flight} requests in flight"
            raise Refused("busy", text, field="evict")
        if (wait_s := self._replicas.evictable_in_s(resident)) > 0 and resident.model != model:
            raise Refused("busy", f"{resident.model} is protected for {wait_s:g} s", field="evict", retry_in_s=wait_s)
        return resident

    def fit(self, profile: Profile, checkpoint: Checkpoint, request: LoadRequest, victims: Sequence[Resident]) -> Fit:
        """Its placement, with the victims gone."""
        free = self._free_without(victims)
        devices = self._host.devices(self._replicas.held_mb())
        profile, known = self._wanted(profile, checkpoint)
        try:
            fitted = fit(checkpoint, profile, devices, free, placement=request.placement, known=known)
            hopeless = isinstance(fitted, Need) and isinstance(
                fit(checkpoint, profile, devices, self._without_pins(profile.id), known=known), Need
            )
        except CannotFit as error:
            code = "bad_request" if error.field else "model_cannot_fit"
            numbers = {"need_mb": error.need_mb, "free_mb": max(0, error.free_mb)}
            raise Refused(code, str(error), field=error.field, **numbers) from error
        if isinstance(fitted, Need):
            if hopeless:
                pinned = ", ".join(sorted({r.model for r in self._replicas if self._replicas.pinned(r)}))
                text = f"{profile.id} needs {fitted.memory_mb} MB: only moving what is pinned ({pinned}) would free it"
                raise Refused("model_cannot_fit", text, need_mb=fitted.memory_mb, free_mb=max(0, *free.values()))
            raise self._too_little(profile.id, fitted.memory_mb, max(0, *free.values()))
        return fitted

    def elsewhere(self, resident: Resident) -> Fit | None:
        """Where else a replica has room now, on none of its devices and with nobody gone."""
        profile, known = self._wanted(resident.profile, resident.checkpoint)
        held = self._replicas.held_mb()
        others = [device for device in self._host.devices(held) if device.id not in resident.devices]
        try:
            fitted = fit(resident.checkpoint, profile, others, self._replicas.free_mb(), known=known)
        except CannotFit:
            return None
        return fitted if isinstance(fitted, Fit) else None

    def _wanted(self, profile: Profile, checkpoint: Checkpoint) -> tuple[Profile, Known | None]:
        if not self._host.simulated or checkpoint.architecture:
            return profile, self._learned.known(profile.id, profile.digest, self._host.kind)
        # Without a checkpoint a simulated model needs what is written, and no more.
        known = Known(model=profile.id, digest=profile.digest, device_kind=self._host.kind, overhead_mb=1)
        return structs.replace(profile, vram_mb=profile.vram_mb or self._config.engine.sim.weights_mb), known

    def check_wake(self, resident: Resident, victims: Sequence[Resident]) -> None:
        """Whether a sleeping replica can have its memory again, with the victims gone."""
        free = self._free_without(victims)
        for share in resident.shares:
            free_mb = free.get(share.id, 0) + resident.held_mb(share.id)
            if share.memory_mb > free_mb:
                raise self._too_little(resident.model, share.memory_mb, max(0, free_mb))

    def sleepers(self, wanted_mb: Mapping[str, int], victims: Sequence[Resident], model: str) -> frozenset[str]:
        """Which of the victims sleep instead of leaving: those that can, as far as device and host have the room.

        Args:
            wanted_mb: device → what is taken of it at once.
        """
        left = self._free_without(victims)
        for device, mb in wanted_mb.items():
            left[device] -= mb
        host_mb = max(0, self._host.probe.host_available_mb - HOST_LEAST_MB)
        chosen = set()
        for victim in victims:
            keeps = {share.id: min(share.memory_mb, victim.asleep_mb) for share in victim.shares}
            fits = victim.weights_mb <= host_mb and all(left[device] >= mb for device, mb in keeps.items())
            if victim.can_sleep and victim.state is State.READY and victim.model != model and fits:
                host_mb -= victim.weights_mb
                for device, mb in keeps.items():
                    left[device] -= mb
                chosen.add(victim.id)
        return frozenset(chosen)

    def _free_without(self, victims: Sequence[Resident]) -> dict[str, int]:
        free = self._replicas.free_mb()
        for victim in victims:
            for device in victim.devices:
                free[device] = free.get(device, 0) + victim.held_mb(device)
        return free

    def _without_pins(self, model: str) -> dict[str, int]:
        """Device → what would be free if everything went that may."""
        room = {device.id: device.memory_mb for device in self._host.devices({})}
        for resident in self._replicas:
            if self._replicas.pinned(resident) and resident.model != model:
                for device in resident.devices:
                    room[device] = room.get(device, 0) - resident.held_mb(device)
        return room

    def _too_little(self, model: str, need_mb: int, free_mb: int) -> Refused:
        """Memory that another load has been promised is not merely missing: the caller's picture is old."""
        for resident in self._replicas:
            if resident.victims:
                text = f"memory was promised to {resident.model} meanwhile; {need_mb} MB are not left"
                return Refused("outrun", text, need_mb=need_mb)
        text = f"{model} needs {need_mb} MB and {free_mb} are free"
        return Refused("insufficient_memory", text, need_mb=need_mb, free_mb=free_mb)

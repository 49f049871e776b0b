"""What may be done with the replicas, and by whom: commands in, operations out. The neuron's decisions are all here.

Each command is decided in one step, without awaiting: refused with the present state, or begun with its memory
reserved and its victims' gates closed. The work that follows is one task, owned by the daemon.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from msgspec import structs

from cortex_core.fleet import Known, Profile, State
from cortex_core.neuron_api import (
    LoadRequest,
    SleepRequest,
    UnloadRequest,
    Victim,
)
from neuron.checkpoints import Facts as Checkpoint
from neuron.engines.base import EngineFailed
from neuron.fit import CannotFit, Fit, Need, fit
from neuron.lifecycle import ENDS
from neuron.operations import Running
from neuron.parts import Parts
from neuron.refusals import Refused
from neuron.replicas import Replicas
from neuron.resident import Resident

log = logging.getLogger(__name__)

COMES_UP = frozenset({State.LOADING, State.RECOVERING, State.WAKING})
GOES = frozenset({State.DRAINING, State.UNLOADING})


class Supervisor:
    """Loads, unloads, pins and cordons. Every method that takes a request answers at once, with an operation."""

    def __init__(self, parts: Parts, replicas: Replicas) -> None:
        self._parts = parts
        self._config = parts.config
        self._instance_id = parts.instance_id
        self._host = parts.host
        self._learned = parts.learned
        self._operations = parts.operations
        self._hub = parts.hub
        self._replicas = replicas

    # Load

    async def before(self, request: LoadRequest) -> None:
        """What `load` must know before it decides: whether the checkpoint is there."""
        profile = self._profile(request)
        await self._host.find(profile.source or profile.id)

    def load(self, request: LoadRequest) -> Running:
        """One swap: let the victims go, load the model. Raises Refused with the state that speaks against it."""
        profile = self._profile(request)
        running, fresh = self._operations.begin(request.operation_id, "load", profile.id, request)
        if not fresh:
            return running
        try:
            self._check_may_begin(request.instance_id)
            self._learned.seen(profile, self._parts.name)
            existing = next(iter(self._replicas.of(profile.id)), None)
            if existing is not None and self._serves(existing, profile, request):
                self._join(running, existing)
            else:
                self._begin_load(running, request, profile, existing)
        except Refused as refused:
            self._operations.forget(running)
            raise self._with_state(refused, profile.id, *(victim.replica for victim in request.evict)) from None
        return running

    def _profile(self, request: LoadRequest) -> Profile:
        model = request.model or request.model_id or (request.profile.id if request.profile else None)
        if model is None:
            raise Refused("bad_request", "a model is missing", field="model")
        if request.profile is None:
            return self._learned.profile(model) or Profile(id=model)
        if request.profile.id != model:
            raise Refused("bad_request", f"the profile is of {request.profile.id}", field="profile.id")
        return request.profile

    def _check_may_begin(self, instance_id: str) -> None:
        if instance_id and instance_id != self._instance_id:
            raise Refused("outrun", "the neuron was started anew since then")
        if self._replicas.closing:
            raise Refused("shutting_down", "the neuron ends")
        if self._learned.cordoned:
            raise Refused("cordoned", f"the neuron is cordoned: {self._learned.cordon_reason or 'no reason given'}")
        if self._parts.owners.problem:
            raise Refused("engine_unavailable", self._parts.owners.problem)

    def _serves(self, resident: Resident, profile: Profile, request: LoadRequest) -> bool:
        """Whether a resident of the model is, or will be, what was asked for."""
        if resident.state in GOES or resident.claimed_by is not None:
            return False
        if any(victim.replica == resident.id for victim in request.evict):
            return False  # it is moved: loaded elsewhere on this host, and let go here
        if request.replace and resident.digest != profile.digest:
            return False
        if resident.state is State.RECOVERING and resident.strikes > 1:
            failure = self._learned.failure(resident.model, resident.digest)
            wait_s = failure.retry_in_s if failure else 1.0
            raise Refused("load_failed", f"it dies again and again: {resident.reason}", retry_in_s=wait_s)
        return True

    def _join(self, running: Running, resident: Resident) -> None:
        running.subject = lambda: self._replicas.view(resident)
        if resident.state in COMES_UP:
            running.joined = True
            self._parts.spawn(self._follow(running, resident))
        else:
            running.finish()

    async def _follow(self, running: Running, resident: Resident) -> None:
        while resident.state in COMES_UP:
            running.step(resident.phase, resident.progress)
            await resident.changed.wait()
        if resident.state is State.READY:
            running.finish()
        else:
            refused = resident.refused or Refused("cancelled", "the load was called off")
            running.finish(self._with_state(refused, resident.model).refusal)

    def _begin_load(self, running: Running, request: LoadRequest, profile: Profile, existing: Resident | None) -> None:
        checkpoint, known = self._checkpoint(profile)
        failure = self._learned.failure(profile.id, profile.digest)
        if request.instance_id and failure is not None and failure.retry_in_s > 0:
            text = f"it failed {failure.count} times, the last time so: {failure.message}"
            raise Refused("load_failed", text, retry_in_s=failure.retry_in_s, failure=failure)
        evict = {victim.replica: victim for victim in request.evict}
        if existing is not None and existing.state not in GOES and existing.claimed_by is None:
            replaced = Victim(replica=existing.id, version=existing.version, mode="drain")
            evict.setdefault(existing.id, replaced)
        victims = [self._victim(one, profile.id) for one in evict.values()]
        fitted = self._fit(profile, checkpoint, known, request, victims)
        drain_s = {name: one.drain_s if one.mode == "drain" else 0.0 for name, one in evict.items()}
        resident = self._replicas.add(profile, checkpoint, fitted, victims)
        running.subject = lambda: self._replicas.view(resident)
        resident.work = self._parts.spawn(self._swap(running, resident, drain_s))
        resident.work.add_done_callback(lambda _: self._settle(running, resident))

    def _checkpoint(self, profile: Profile) -> tuple[Checkpoint, Known | None]:
        name = profile.source or profile.id
        found = self._host.checkpoints.get(name)
        known = self._learned.known(profile.id, profile.digest, self._host.kind)
        if found is not None and found.problem:
            raise Refused("bad_request", f"{name} cannot be served: {found.problem}", field="profile.source")
        if found is not None:
            return found, known
        if not self._host.simulated:
            raise Refused("not_found", f"there is no checkpoint {name} in {self._host.models_dir}", field="model")
        return Checkpoint(name=name, path=Path()), None

    def _victim(self, victim: Victim, model: str) -> Resident:
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

    def _fit(
        self,
        profile: Profile,
        checkpoint: Checkpoint,
        known: Known | None,
        request: LoadRequest,
        victims: list[Resident],
    ) -> Fit:
        held, free = self._replicas.held_mb(), self._replicas.free_mb()
        for victim in victims:
            for device in victim.devices:
                free[device] = free.get(device, 0) + victim.held_mb(device)
        devices = self._host.devices(held)
        if self._host.simulated and not checkpoint.architecture:
            # Without a checkpoint a simulated model needs what is written, and no more.
            profile = structs.replace(profile, vram_mb=profile.vram_mb or self._config.engine.sim.weights_mb)
            known = Known(model=profile.id, digest=profile.digest, device_kind=self._host.kind, overhead_mb=1)
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
            self._check_promised(fitted)
            best_mb = max(0, *free.values())
            text = f"{profile.id} needs {fitted.memory_mb} MB and {best_mb} are free"
            raise Refused("insufficient_memory", text, need_mb=fitted.memory_mb, free_mb=best_mb)
        return fitted

    def _without_pins(self, model: str) -> dict[str, int]:
        """Device → what would be free if everything went that may."""
        room = {device.id: device.memory_mb for device in self._host.devices({})}
        for resident in self._replicas:
            if self._replicas.pinned(resident) and resident.model != model:
                for device in resident.devices:
                    room[device] = room.get(device, 0) - resident.held_mb(device)
        return room

    def _check_promised(self, wanted: Need) -> None:
        """Memory that another load has been promised is not merely missing: the caller's picture is old."""
        for resident in self._replicas:
            if resident.victims:
                text = f"memory was promised to {resident.model} meanwhile; {wanted.memory_mb} MB are not left"
                raise Refused("outrun", text, need_mb=wanted.memory_mb)

    async def _swap(self, running: Running, resident: Resident, drain_s: dict[str, float]) -> None:
        try:
            await self._evict(running, resident, drain_s)
            await self._replicas.start(resident, running.step)
        except Refused as refused:  # the drain ran out of time
            self._fail(running, resident, refused)
            resident.work = None
            await self._replicas.end(resident)
        except EngineFailed as error:
            resident.work = None
            failure = self._replicas.fail(resident, error)
            if error.phase == "config" and error.told:  # the engine does not take these options: no other would
                message = f"the engine refuses: {error.message}"
                self._fail(running, resident, Refused("bad_request", message, field="profile.engine", failure=failure))
                return
            retry = "never" if failure.scope == "model" else "elsewhere"
            failed = Refused(
                "load_failed",
                str(error),
                retry=retry,
                retry_in_s=failure.retry_in_s,
                failure=failure,
                details={"phase": error.phase},
            )
            self._fail(running, resident, failed)
            self._hub.snapshot_due = True
        else:
            resident.work = None
            running.finish()
            self._hub.snapshot_due = True

    def _settle(self, running: Running, resident: Resident) -> None:
        """However the work ended, also cancelled before it began, its operation has an end."""
        if running.ended is None:
            self._fail(running, resident, Refused("cancelled", "the load was called off"))

    def _fail(self, running: Running, resident: Resident, refused: Refused) -> None:
        resident.refused = refused
        running.finish(self._with_state(refused, resident.model).refusal)

    async def _evict(self, running: Running, resident: Resident, drain_s: dict[str, float]) -> None:
        """Let the victims go: first all drain; if one does not in time, the load ends and all of them stay."""
        victims = list(resident.victims)
        if not victims:
            return
        began = self._parts.clock()
        running.step("draining", 0.0)
        for victim in victims:
            try:
                async with asyncio.timeout_at(began + drain_s[victim.id]):
                    await victim.gate.until_empty()
            except TimeoutError as error:
                text = f"{victim.model} still has {victim.gate.in_flight} requests after {drain_s[victim.id]:g} s"
                raise Refused("drain_timeout", text) from error
        resident.committed = True
        running.step("evicting", 0.0)
        # Tasks of their own: what has begun to go is gone, also when this load is called off meanwhile.
        await asyncio.wait([self._parts.spawn(self._replicas.end(victim)) for victim in victims])

    # Unload

    def unload(self, request: UnloadRequest) -> Running:
        """End a replica: when it is idle, once it has drained, or at once. Raises Refused."""
        resident = self._replicas.get(request.replica)
        if resident is None and request.model_id and not request.replica:
            resident = next(iter(self._replicas.of(request.model_id)), None)
        model = resident.model if resident else request.model_id or ""
        running, fresh = self._operations.begin(request.operation_id, "unload", model, request)
        if not fresh:
            return running
        try:
            if resident is None:
                if not (request.replica or request.model_id):
                    raise Refused("bad_request", "name a replica, or a model_id", field="replica")
                raise Refused("not_found", f"{request.replica or request.model_id} is not loaded", field="replica")
            self._begin_unload(running, resident, request)
        except Refused as refused:
            self._operations.forget(running)
            raise self._with_state(refused, model) from None
        return running

    def _begin_unload(self, running: Running, resident: Resident, request: UnloadRequest) -> None:
        if request.version is not None and request.version != resident.version:
            raise Refused("outrun", f"replica {resident.id} is at version {resident.version}", field="version")
        running.subject = lambda: self._replicas.view(resident)
        if resident.state is State.UNLOADING:
            running.joined = True
            self._parts.spawn(self._until_gone(running, resident))
            return
        if resident.state is State.DRAINING and resident.claimed_by is None and request.mode == "cut":
            running.joined = True
            self._replicas.cut(resident)
            self._parts.spawn(self._until_gone(running, resident))
            return
        if resident.claimed_by is not None or resident.state is State.DRAINING:
            raise Refused("busy", f"{resident.model} drains already")
        if self._replicas.pinned(resident):
            raise Refused("busy", f"{resident.model} is pinned here: unpin it first")
        if request.mode == "idle" and resident.gate.demand:
            raise Refused("busy", f"{resident.model} has {resident.gate.in_flight} requests in flight")
        self._replicas.close_gate(resident, "it is being unloaded")
        self._replicas.publish(resident)
        self._parts.spawn(
            self._unload(running, resident, request.drain_s if request.mode == "drain" else 0.0, request.mode)
        )

    async def _unload(self, running: Running, resident: Resident, drain_s: float, mode: str) -> None:
        running.step("draining", 0.0)
        try:
            async with asyncio.timeout(drain_s):
                await resident.gate.until_empty()
        except TimeoutError:
            if mode != "cut":
                self._replicas.reopen(resident)
                text = f"{resident.model} still has {resident.gate.in_flight} requests after {drain_s:g} s"
                running.finish(self._with_state(Refused("drain_timeout", text), resident.model).refusal)
                return
            self._replicas.cut(resident)
        running.step("unloading", 0.0)
        await self._replicas.end(resident)
        running.finish()

    async def _until_gone(self, running: Running, resident: Resident) -> None:
        while resident.state not in ENDS:
            await resident.changed.wait()
        running.finish()

    # Calling off, sleeping

    def cancel(self, operation_id: str) -> Running:
        """Call a load off, until its first victim is gone. Who joined it is told as well."""
        running = self._operations.get(operation_id)
        if running.ended is not None:
            return running
        replica = running.subject() if running.subject else None
        resident = self._replicas.get(replica.id) if replica else None
        if running.kind != "load" or resident is None or resident.committed or resident.state is not State.LOADING:
            raise self._with_state(Refused("busy", "it cannot be called off any more"), running.model)
        if running.joined:
            running.finish(Refused("cancelled", "this caller called it off; the load goes on for others").refusal)
        else:
            self._parts.spawn(self._replicas.end(resident))
        return running

    def sleep(self, request: SleepRequest) -> Running:
        resident = self._replicas.get(request.replica)
        if resident is None:
            raise Refused("not_found", f"{request.replica} is not loaded", field="replica")
        raise self._with_state(Refused("unsupported", "the engines of this neuron cannot sleep"), resident.model)

    # For refusals

    def _with_state(self, refused: Refused, model: str, *replicas: str) -> Refused:
        """The refusal with what the caller has to decide anew on."""
        about = {r.id: r for r in self._replicas.of(model)} if model else {}
        about |= {found.id: found for name in replicas if (found := self._replicas.get(name)) is not None}
        views = tuple(self._replicas.view(resident) for resident in about.values())
        refused.refusal = structs.replace(refused.refusal, instance_id=self._instance_id, replicas=views)
        return refused

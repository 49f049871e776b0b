"""What may be done with the replicas, and by whom: commands in, operations out. The neuron's decisions are all here.

Each command is decided in one step, without awaiting: refused with the present state, or begun with its memory
reserved and its victims' gates closed. What follows is `Work`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from cortex_core.fleet import Profile, State
from cortex_core.neuron_api import LoadRequest, SleepRequest, UnloadRequest, Victim
from neuron.engines.base import SLEEP_OPTION
from neuron.supervisor.lifecycle import Event
from neuron.supervisor.operations import Running
from neuron.supervisor.parts import Parts
from neuron.supervisor.refusals import Refused
from neuron.supervisor.replicas import Replicas
from neuron.supervisor.resident import Resident
from neuron.supervisor.room import Room
from neuron.supervisor.work import COMES_UP, Evictions, Work

GOES = frozenset({State.DRAINING, State.UNLOADING})


class Supervisor:
    """Loads, unloads, sleeps and wakes. Every method that takes a request answers at once, with an operation."""

    def __init__(self, parts: Parts, replicas: Replicas, work: Work) -> None:
        self._parts = parts
        self._instance_id = parts.instance_id
        self._host = parts.host
        self._learned = parts.learned
        self._operations = parts.operations
        self._replicas = replicas
        self._work = work
        self._room = Room(parts, replicas)

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
        with self._refused(running, *(victim.replica for victim in request.evict)):
            self._check_may_begin(request.instance_id)
            self._learned.seen(profile, self._parts.name)
            existing = next(iter(self._replicas.of(profile.id)), None)
            if existing is None or not self._serves(existing, profile, request):
                self._begin_load(running, request, profile, existing)
            elif existing.state is State.SLEEPING:
                self._begin_wake(running, existing, request.evict)
            else:
                self._join(running, existing)
        return running

    @contextmanager
    def _refused(self, running: Running, *replicas: str) -> Iterator[None]:
        """A command that is refused leaves no operation; its refusal tells what the caller has to decide anew on."""
        try:
            yield
        except Refused as refused:
            self._operations.forget(running)
            raise self._replicas.with_state(refused, running.model, *replicas) from None

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
        if resident.state is State.SLEEPING and request.placement:
            return {share.id for share in request.placement} == set(resident.devices)
        if resident.state is State.RECOVERING and resident.strikes > 1:
            failure = self._learned.failure(resident.model, resident.digest)
            wait_s = failure.retry_in_s if failure else 1.0
            raise Refused("load_failed", f"it dies again and again: {resident.reason}", retry_in_s=wait_s)
        return True

    def _join(self, running: Running, resident: Resident) -> None:
        running.subject = lambda: self._replicas.view(resident)
        if resident.state in COMES_UP:
            self._work.follow(running, resident)
        else:
            running.finish()

    def _begin_load(self, running: Running, request: LoadRequest, profile: Profile, existing: Resident | None) -> None:
        checkpoint = self._room.checkpoint(profile)
        failure = self._learned.failure(profile.id, profile.digest)
        if request.instance_id and failure is not None and failure.retry_in_s > 0:
            text = f"it failed {failure.count} times, the last time so: {failure.message}"
            raise Refused("load_failed", text, retry_in_s=failure.retry_in_s, failure=failure)
        evict = {victim.replica: victim for victim in request.evict}
        if existing is not None and existing.state not in GOES and existing.claimed_by is None:
            replaced = Victim(replica=existing.id, version=existing.version, mode="drain")
            evict.setdefault(existing.id, replaced)
        victims = [self._room.victim(one, profile.id) for one in evict.values()]
        fitted = self._room.fit(profile, checkpoint, request, victims)
        asleep = self._room.sleepers({share.id: share.memory_mb for share in fitted.shares}, victims, profile.id)
        resident = self._replicas.add(profile, checkpoint, fitted, victims)
        running.subject = lambda: self._replicas.view(resident)
        self._work.load(running, resident, Evictions(_drain_s(evict.values()), asleep))

    def _begin_wake(self, running: Running, resident: Resident, evict: Sequence[Victim] = ()) -> None:
        """Its memory is taken again in this moment; who has it now makes room as for a load."""
        victims = [self._room.victim(one, resident.model) for one in evict]
        self._room.check_wake(resident, victims)
        more = {share.id: share.memory_mb - resident.held_mb(share.id) for share in resident.shares}
        asleep = self._room.sleepers(more, victims, resident.model)
        resident.advance(Event.WAKE)
        known = self._learned.known(resident.model, resident.digest, self._host.kind)
        resident.expected_load_s = known.wake_s if known else 0.0
        resident.gate.close(Refused("waking", f"{resident.model} wakes", retry_in_s=1.0))
        running.subject = lambda: self._replicas.view(resident)
        self._replicas.claim(resident, victims)
        self._replicas.publish(resident)
        self._work.wake(running, resident, Evictions(_drain_s(evict), asleep))

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
        with self._refused(running):
            if resident is None:
                if not (request.replica or request.model_id):
                    raise Refused("bad_request", "name a replica, or a model_id", field="replica")
                raise Refused("not_found", f"{request.replica or request.model_id} is not loaded", field="replica")
            self._begin_unload(running, resident, request)
        return running

    def _begin_unload(self, running: Running, resident: Resident, request: UnloadRequest) -> None:
        self._check_version(resident, request.version)
        running.subject = lambda: self._replicas.view(resident)
        drains = resident.state is State.DRAINING and resident.work is None  # else it goes to sleep, and may be ended
        if resident.state is State.UNLOADING:
            self._work.follow_end(running, resident)
            return
        if drains and resident.claimed_by is None and request.mode == "cut":
            self._work.cut(resident)
            self._work.follow_end(running, resident)
            return
        if resident.claimed_by is not None or drains:
            raise Refused("busy", f"{resident.model} drains already")
        self._check_idle(resident, request.mode == "idle")
        self._replicas.close_gate(resident, "it is being unloaded")
        self._replicas.publish(resident)
        self._work.unload(running, resident, request.mode, request.drain_s)

    def _check_version(self, resident: Resident, version: int | None) -> None:
        if version is not None and version != resident.version:
            raise Refused("outrun", f"replica {resident.id} is at version {resident.version}", field="version")

    def _check_idle(self, resident: Resident, idle: bool = True) -> None:
        if self._replicas.pinned(resident):
            raise Refused("busy", f"{resident.model} is pinned here: unpin it first")
        if idle and resident.gate.demand:
            raise Refused("busy", f"{resident.model} has {resident.gate.in_flight} requests in flight")

    # Sleep

    def sleep(self, request: SleepRequest) -> Running:
        """Let an idle replica give its device's memory back, and stay. Raises Refused."""
        running, resident, fresh = self._named(request, "sleep")
        if fresh:
            with self._refused(running):
                if not resident.can_sleep:
                    how = f"its profile wants engine = {{ {SLEEP_OPTION} = true }}, and a device where the engine can"
                    raise Refused("unsupported", f"the engine of {resident.model} cannot sleep: {how}")
                if resident.state is State.SLEEPING and resident.asleep_level == request.level:
                    running.finish()
                    return running
                self._check_version(resident, request.version)
                if resident.state is not State.READY:
                    raise Refused("busy", f"{resident.model} is {resident.state}")
                self._check_idle(resident)
                self._replicas.close_gate(resident, "it goes to sleep")
                self._replicas.publish(resident)
                self._work.sleep(running, resident, request.level)
        return running

    def wake(self, request: SleepRequest) -> Running:
        """Let a sleeping replica have its memory again, where it is free. Raises Refused."""
        running, resident, fresh = self._named(request, "wake")
        if fresh:
            with self._refused(running):
                self._check_may_begin("")
                if resident.state is State.SLEEPING:
                    self._check_version(resident, request.version)
                    if resident.claimed_by is not None:
                        raise Refused("busy", f"{resident.model} is being unloaded")
                    self._begin_wake(running, resident)
                elif resident.state in COMES_UP or resident.state is State.READY:
                    self._join(running, resident)
                else:
                    raise Refused("busy", f"{resident.model} is {resident.state}")
        return running

    def _named(self, request: SleepRequest, kind: Literal["sleep", "wake"]) -> tuple[Running, Resident, bool]:
        resident = self._replicas.get(request.replica)
        if resident is None:
            raise Refused("not_found", f"{request.replica} is not loaded", field="replica")
        running, fresh = self._operations.begin(request.operation_id, kind, resident.model, request)
        running.subject = lambda: self._replicas.view(resident)
        return running, resident, fresh

    # Calling off

    def cancel(self, operation_id: str) -> Running:
        """Call a load off, until its first victim is gone. Who joined it is told as well."""
        running = self._operations.get(operation_id)
        if running.ended is not None:
            return running
        replica = running.subject() if running.subject else None
        resident = self._replicas.get(replica.id) if replica else None
        if running.kind != "load" or resident is None or resident.committed or resident.state is not State.LOADING:
            raise self._replicas.with_state(Refused("busy", "it cannot be called off any more"), running.model)
        if running.joined:
            running.finish(Refused("cancelled", "this caller called it off; the load goes on for others").refusal)
        else:
            self._work.call_off(resident)
        return running


def _drain_s(evict: Iterable[Victim]) -> dict[str, float]:
    return {victim.replica: victim.drain_s if victim.mode == "drain" else 0.0 for victim in evict}

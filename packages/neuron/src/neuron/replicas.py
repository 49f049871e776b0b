"""The replicas of this neuron and what becomes of their engines: started, watched, ended, revived.

The supervisor decides; this carries out, and keeps the one list that everything is reported from. Between a decision
and the change it makes nothing awaits, so there are no locks.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from msgspec import structs

from cortex_core.fleet import MEBIBYTE, Demand, Failure, Known, Profile, Replica, State
from cortex_core.http import Client
from cortex_core.neuron_api import ReplicaEvent
from neuron.checkpoints import Facts as Checkpoint
from neuron.engines.base import Engine, EngineFailed, Finished, LoadSpec, Progress
from neuron.fit import Fit, max_in_flight
from neuron.lifecycle import ENDS, Event
from neuron.parts import Parts
from neuron.refusals import Refused
from neuron.resident import Resident

log = logging.getLogger(__name__)

PHASES = ("fork", "config", "engine", "device", "weights", "profile", "kv_cache", "warmup", "serving")
STALL_S = 120.0  # a load without any progress for so long hangs
STABLE_S = 60.0  # an engine that was ready for so long did not die of its start
STRIKES_MOST = 6  # engines that died one after another, before the replica is given up
REVIVE_S = (0.0, 5.0, 10.0, 20.0, 40.0, 80.0)  # before the first, second, ... start of such a row
PROGRESS_EVERY_S = 0.2  # events of a load's progress
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
        self._hub.demand(self.demands())

    def demands(self) -> dict[str, dict[str, Demand]]:
        """Gateway → model → demand, of the last three seconds."""
        limit = self._clock() - DEMAND_S
        self._demand = {gateway: entry for gateway, entry in self._demand.items() if entry[0] > limit}
        return {gateway: models for gateway, (_, models) in self._demand.items()}

    def demanded(self, model: str) -> bool:
        return any(model in models and models[model].waiters > 0 for models in self.demands().values())

    # A replica's begin

    def add(self, profile: Profile, checkpoint: Checkpoint, fitted: Fit, victims: list[Resident]) -> Resident:
        """Reserve the memory: from here on nobody else gets it. The victims' gates close in the same breath."""
        self._made += 1
        resident = Resident(f"{self._parts.instance_id}-{self._made}", profile, checkpoint, self._clock)
        resident.shares = fitted.shares
        resident.victims = list(victims)
        resident.guard_s = self._config.engine.turn_guard_s
        resident.context = fitted.context
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
        for victim in victims:
            victim.claimed_by = resident
            self.close_gate(victim, f"it makes room for {profile.id}")
            self.publish(victim)
        self.publish(resident)
        return resident

    async def start(self, resident: Resident, on_step: Callable[[str, float], None] = lambda *_: None) -> None:
        """Start its engine and open its gate.

        Raises:
            EngineFailed, Refused: nothing of the engine is left; the resident is as it was.
        """
        spec = resident.spec
        assert spec is not None
        resident.phase = "turn"
        async with self._parts.owners.turn(spec.devices):  # waiting for it is no part of the load
            await self._start(resident, spec, on_step)

    async def _start(self, resident: Resident, spec: LoadSpec, on_step: Callable[[str, float], None]) -> None:
        began = self._clock()
        deadline = began + self._config.engine.load_deadline_s
        resident.load_began, resident.progress, resident.starts = began, 0.0, resident.starts + 1
        resident.progressed_at = began
        told = 0.0
        try:
            async with asyncio.timeout_at(min(deadline, began + STALL_S)) as bound:

                def on_progress(progress: Progress) -> None:
                    nonlocal told
                    now = self._clock()
                    resident.progressed_at = now
                    if not bound.expired():
                        bound.reschedule(min(deadline, now + STALL_S))
                    changed = progress.phase != resident.phase
                    resident.phase, resident.reason = progress.phase, progress.detail
                    resident.progress = max(resident.progress, overall(progress))
                    if changed or now - told >= PROGRESS_EVERY_S:
                        told = now
                        self.publish(resident)
                        on_step(resident.phase, resident.progress)

                engine = await self._parts.owners.load(spec, on_progress, self._finished)
        except TimeoutError as error:
            took_s = self._clock() - began
            raise EngineFailed(resident.phase or "fork", f"it hangs: given up after {took_s:.0f} s") from error
        self._ready(resident, engine, began)

    def _ready(self, resident: Resident, engine: Engine, began: float) -> None:
        now, facts = self._clock(), engine.facts
        resident.engine = engine
        resident.client = Client(f"unix:{engine.socket}")
        resident.load_s = now - began
        resident.context = facts.context or resident.context
        resident.kv_tokens, resident.tasks, resident.simulated = facts.kv_tokens, facts.tasks, facts.simulated
        resident.phase, resident.progress = "", 1.0
        resident.ready_at = resident.idle_since = resident.progressed_at = now
        resident.served = False
        resident.advance(Event.SERVED)
        self._open_gate(resident)
        known = Known(
            model=resident.model,
            digest=resident.digest,
            device_kind=self._host.kind,
            load_s=round(resident.load_s, 3),
            weights_mb=-(-(facts.weights_bytes or resident.checkpoint.weights_bytes) // MEBIBYTE),
            kv_tokens=facts.kv_tokens,
        )
        self._learned.loaded(known)
        log.info("%s (%s) is ready after %.2f s", resident.model, resident.id, resident.load_s)
        self.publish(resident)
        self._parts.spawn(self._watch(resident, engine))
        if self._host.kind == "cuda" and not self._host.simulated:
            self._parts.spawn(self._measure(resident, engine, known))

    async def _measure(self, resident: Resident, engine: Engine, known: Known) -> None:
        """What its processes really use, beyond weights and cache, is the overhead that the next load counts with."""
        used = await self._host.used_by(engine.facts.pids)
        spec = resident.spec
        if not used or spec is None:
            return
        weights_mb = -(-known.weights_mb // len(spec.devices))
        overhead_mb = max(used.values()) - weights_mb - spec.kv_cache_mb
        if overhead_mb > 0:
            self._learned.loaded(structs.replace(known, overhead_mb=overhead_mb))
            self._hub.snapshot_due = True
        log.info("%s (%s) really uses %s MB; overhead %d MB", resident.model, resident.id, used, overhead_mb)

    async def _watch(self, resident: Resident, engine: Engine) -> None:
        ended = await engine.ended()
        if resident.engine is engine and not self.closing and resident.life.can(Event.DIED):
            self.died(resident, ended.reason)

    def _finished(self, finished: Finished) -> None:
        event = self._parts.requests.finished(finished, self._hub.seq + 1)
        if event is not None:
            self._hub.number()
            self._hub.finished(event)

    # Its gate

    def _open_gate(self, resident: Resident) -> None:
        most = max_in_flight(resident.profile, resident.kv_tokens, resident.context)
        resident.gate.open(most, resident.profile.max_queue_depth)

    def close_gate(self, resident: Resident, reason: str) -> None:
        """Nobody gets in any more; who is in goes on."""
        if resident.life.can(Event.DRAIN):
            resident.advance(Event.DRAIN, reason)
        resident.gate.close(Refused("draining", f"{resident.model} drains: {reason}"))

    def reopen(self, resident: Resident) -> None:
        """A victim, or a drained replica, that stays after all."""
        resident.claimed_by = None
        if resident.life.can(Event.REOPEN):
            resident.advance(Event.REOPEN)
            self._open_gate(resident)
            self.publish(resident)
        elif resident.state is State.RECOVERING and resident.work is None:
            self._revive(resident)

    # Its end

    async def end(self, resident: Resident, grace_s: float = 0.0) -> None:
        """End its engine, and it; its memory is free when this returns."""
        if resident.state in ENDS:
            return
        if resident.state is State.UNLOADING:
            while resident.state not in ENDS:
                await resident.changed.wait()
            return
        resident.gate.close(Refused("not_loaded", f"{resident.model} is being unloaded"))
        resident.advance(Event.UNLOAD)
        self.publish(resident)
        work, resident.work = resident.work, None
        if work is not None:
            work.cancel()
            await asyncio.wait((work,))
        await self._drop_engine(resident, grace_s)
        resident.advance(Event.ENDED)
        log.info("%s (%s) is unloaded", resident.model, resident.id)
        self._remove(resident)

    async def _drop_engine(self, resident: Resident, grace_s: float) -> None:
        if resident.engine is not None:
            await resident.engine.close(grace_s)
            resident.engine = None
        self.cut(resident)

    def cut(self, resident: Resident) -> None:
        """Break the connections to its engine: whoever waits for an answer is told at once."""
        client, resident.client = resident.client, None
        if client is not None:
            self._parts.spawn(client.close())

    def fail(self, resident: Resident, error: EngineFailed) -> Failure:
        """Its load failed, or its row of starts: it goes, and the failure is kept."""
        log.warning("%s (%s) failed in %s", resident.model, resident.id, error)
        failure = self._learned.failed(_failure(resident, "load_failed", error))
        resident.gate.close(Refused("failed", str(error), retry_in_s=failure.retry_in_s))
        resident.advance(Event.GIVE_UP if resident.life.can(Event.GIVE_UP) else Event.LOAD_FAILED, str(error))
        self._remove(resident)
        return failure

    def _remove(self, resident: Resident) -> None:
        self._residents.pop(resident.id, None)
        if resident.state is State.ABSENT and resident.spec is not None:
            resident.spec.log.unlink(missing_ok=True)  # what failed keeps its last words
        for other in self._residents.values():
            if resident in other.victims:
                other.victims.remove(resident)
        resident.shares = ()
        victims, resident.victims = resident.victims, []
        for victim in victims:  # they were promised to it, and stay after all
            self.reopen(victim)
        self.publish(resident)

    # Its engine's death, and what follows

    def died(self, resident: Resident, reason: str) -> None:
        """Its engine ended, or hangs: end what is left of it, and start another."""
        log.warning("%s (%s) lost its engine: %s", resident.model, resident.id, reason)
        lived_s = self._clock() - resident.ready_at
        resident.strikes = 1 if lived_s >= STABLE_S else resident.strikes + 1
        resident.died_of = reason
        resident.advance(Event.DIED, reason)
        resident.gate.close(Refused("loading", f"{resident.model} is being started again: {reason}", retry_in_s=1.0))
        self.cut(resident)
        self.publish(resident)
        if resident.claimed_by is None:
            self._revive(resident)

    def _revive(self, resident: Resident) -> None:
        if not self.closing:
            resident.work = self._parts.spawn(self._recover(resident))

    async def _recover(self, resident: Resident) -> None:
        await self._drop_engine(resident, 0.0)
        error = EngineFailed("serving", resident.reason, "model")
        while resident.strikes <= STRIKES_MOST:
            delay_s = REVIVE_S[resident.strikes - 1]
            if delay_s:
                resident.gate.close(Refused("failed", f"{resident.model}: {error}", retry_in_s=delay_s))
                self._learned.failed(_failure(resident, "engine_died", error))
                await asyncio.sleep(delay_s)
            if resident.claimed_by is not None:  # it is let go meanwhile; if it stays after all, it is revived then
                resident.work = None
                return
            resident.advance(Event.LOAD, resident.reason)
            resident.gate.close(Refused("loading", f"{resident.model} is being started again", retry_in_s=1.0))
            self.publish(resident)
            try:
                await self.start(resident)
            except EngineFailed as failed:
                error = failed
                resident.strikes += 1
                resident.advance(Event.RETRY, str(failed))
                self.publish(resident)
            else:
                resident.work = None
                return
        resident.work = None
        self.fail(resident, error)


def _failure(resident: Resident, code: str, error: EngineFailed) -> Failure:
    scope: Literal["model", "device", "neuron"] = "model"
    if error.scope in ("device", "neuron"):
        scope = "device" if error.scope == "device" else "neuron"
    return Failure(model=resident.model, digest=resident.digest, scope=scope, code=code, message=str(error))


def overall(progress: Progress) -> float:
    """A load's progress from 0 to 1, each phase counting alike."""
    index = PHASES.index(progress.phase) if progress.phase in PHASES else 0
    return (index + min(1.0, max(0.0, progress.done))) / len(PHASES)

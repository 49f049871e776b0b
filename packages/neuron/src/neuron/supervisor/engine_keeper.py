"""What becomes of the replicas' engines: started, watched, revived when they die, ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Literal

from cortex_core.fleet import Failure, Known, State
from cortex_core.http import Client
from neuron.engines.base import Engine, EngineFailed, Finished, Progress
from neuron.sizing.fit import max_in_flight
from neuron.supervisor.lifecycle import ENDS, Event
from neuron.supervisor.measure import Measure
from neuron.supervisor.parts import Parts
from neuron.supervisor.refusals import Refused
from neuron.supervisor.replicas import Replicas
from neuron.supervisor.resident import Resident
from neuron.supervisor.room import Room
from neuron.supervisor.start import Start

log = logging.getLogger(__name__)

STABLE_S = 60.0  # an engine that was ready for so long did not die of its start
STRIKES_MOST = 6  # engines that died one after another, before the replica is given up
MOVES_AT = 2  # engines that died one after another: the next one starts on other devices, if there is room
REVIVE_S = (0.0, 5.0, 10.0, 20.0, 40.0, 80.0)  # before the first, second, ... start of such a row


class EngineKeeper:
    """Carries out what was decided over a replica; its state changes with what its engine does."""

    def __init__(self, parts: Parts, replicas: Replicas) -> None:
        self._parts = parts
        self._config = parts.config
        self._host = parts.host
        self._learned = parts.learned
        self._hub = parts.hub
        self._clock = parts.clock
        self._replicas = replicas
        self._room = Room(parts, replicas)

    async def start(self, resident: Resident, tell: Callable[[str, float], None] = lambda *_: None) -> None:
        """Start its engine and open its gate.

        Raises:
            EngineFailed, Refused: nothing of the engine is left; the resident is as it was.
        """
        spec = resident.spec
        assert spec is not None
        resident.phase = "turn"
        async with self._parts.owners.turn(spec.devices):  # waiting for it is no part of the load
            began = self._clock()
            resident.load_began, resident.progress, resident.starts = began, 0.0, resident.starts + 1

            def on_step(step: str, progress: float) -> None:
                self._replicas.publish(resident)
                tell(step, progress)

            started = Start(resident, self._clock, self._config.engine.load_deadline_s, on_step)
            measure = Measure(self._host)

            async def load(note: Callable[[Progress], None]) -> Engine:
                await measure.begin()
                return await self._parts.owners.load(spec, note, self._finished)

            engine = await started.run(load)
            self._ready(resident, engine, began)
            if overhead_mb := await measure.overhead_mb(engine, spec, resident.weights_mb):
                self._learned.measured(resident.model, resident.digest, self._host.kind, overhead_mb=overhead_mb)
                self._hub.snapshot_due = True

    def _ready(self, resident: Resident, engine: Engine, began: float) -> None:
        now, facts = self._clock(), engine.facts
        resident.engine = engine
        resident.client = Client(f"unix:{engine.socket}")
        resident.load_s = now - began
        resident.context = facts.context or resident.context
        resident.kv_tokens, resident.tasks, resident.simulated = facts.kv_tokens, facts.tasks, facts.simulated
        resident.facts = facts.model
        resident.phase, resident.progress = "", 1.0
        resident.ready_at = resident.idle_since = resident.progressed_at = now
        resident.served = False
        resident.advance(Event.SERVED)
        self.open_gate(resident)
        known = Known(
            model=resident.model,
            digest=resident.digest,
            device_kind=self._host.kind,
            load_s=round(resident.load_s, 3),
            weights_mb=resident.weights_mb,
            kv_tokens=facts.kv_tokens,
            facts=facts.model,
        )
        self._learned.loaded(known)
        log.info("%s (%s) is ready after %.2f s", resident.model, resident.id, resident.load_s)
        self._replicas.publish(resident)
        self._parts.spawn(self._watch(resident, engine))

    async def _watch(self, resident: Resident, engine: Engine) -> None:
        ended = await engine.ended()
        while resident.engine is engine and resident.state is State.WAKING:  # which finds it out by itself
            await resident.changed.wait()
        if resident.engine is not engine or self._replicas.closing:
            return
        if resident.life.can(Event.DIED):
            self.died(resident, ended.reason)
        elif resident.state is State.SLEEPING:  # nobody needs it now, and its memory may be taken
            log.warning("%s (%s) died in its sleep: %s", resident.model, resident.id, ended.reason)
            await self.end(resident)

    def _finished(self, finished: Finished) -> None:
        event = self._parts.requests.finished(finished, self._hub.seq + 1)
        if event is not None:
            self._hub.number()
            self._hub.finished(event)

    def open_gate(self, resident: Resident) -> None:
        """As far as its cache and its profile let requests in."""
        most = max_in_flight(resident.profile, resident.kv_tokens, resident.context)
        resident.gate.open(most, resident.profile.max_queue_depth)

    def reopen(self, resident: Resident) -> None:
        """A victim, or a drained replica, that stays after all. One that already goes to sleep does so."""
        resident.claimed_by = None
        if resident.work is not None:
            return
        if resident.life.can(Event.REOPEN):
            resident.advance(Event.REOPEN)
            self.open_gate(resident)
            self._replicas.publish(resident)
        elif resident.state is State.SLEEPING:
            self.shut(resident)
        elif resident.state is State.RECOVERING:
            self._revive(resident)

    @staticmethod
    def shut(resident: Resident) -> None:
        """Nobody gets in: it sleeps."""
        resident.gate.close(Refused("sleeping", f"{resident.model} sleeps: load or wake it"))

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
        self._replicas.publish(resident)
        work, resident.work = resident.work, None
        if work is not None:
            work.cancel()
            await asyncio.wait((work,))
        if resident.engine is not None:
            await resident.engine.close(grace_s)
        self._forget_engine(resident)
        resident.advance(Event.ENDED)
        log.info("%s (%s) is unloaded", resident.model, resident.id)
        self._remove(resident)

    def _forget_engine(self, resident: Resident) -> None:
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
        if resident.state is State.ABSENT and resident.spec is not None:
            resident.spec.log.unlink(missing_ok=True)  # what failed keeps its last words
        for victim in self._replicas.drop(resident):
            self.reopen(victim)
        self._replicas.publish(resident)

    def abort(self, resident: Resident, reason: str) -> Client:
        """End all its requests, and let nobody in; the connection to the engine is a new one."""
        assert resident.engine is not None
        resident.reason = reason
        resident.gate.close(Refused("loading", f"{resident.model} does not answer: {reason}", retry_in_s=1.0))
        self.cut(resident)
        client = resident.client = Client(f"unix:{resident.engine.socket}")
        return client

    def go_on(self, resident: Resident) -> None:
        """After `abort`: it answers again."""
        resident.reason, resident.progressed_at = "", self._clock()
        if resident.state is State.READY:
            self.open_gate(resident)

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
        self._replicas.publish(resident)
        if resident.claimed_by is None:
            self._revive(resident)

    def _revive(self, resident: Resident) -> None:
        if not self._replicas.closing:
            resident.work = self._parts.spawn(self._recover(resident))

    async def _recover(self, resident: Resident) -> None:
        if resident.engine is not None:
            await resident.engine.kill()
        self._forget_engine(resident)
        error = EngineFailed("serving", resident.reason, "device")  # it did serve: another place may be better
        while resident.strikes <= STRIKES_MOST:
            delay_s = REVIVE_S[resident.strikes - 1]
            if delay_s:
                resident.gate.close(Refused("failed", f"{resident.model}: {error}", retry_in_s=delay_s))
                self._learned.failed(_failure(resident, "engine_died", error))
                await asyncio.sleep(delay_s)
            if resident.claimed_by is not None:  # it is let go meanwhile; if it stays after all, it is revived then
                resident.work = None
                return
            if resident.strikes >= MOVES_AT and (fitted := self._room.elsewhere(resident)) is not None:
                self._replicas.move(resident, fitted)
            resident.advance(Event.LOAD, resident.reason)
            resident.gate.close(Refused("loading", f"{resident.model} is being started again", retry_in_s=1.0))
            self._replicas.publish(resident)
            try:
                await self.start(resident)
            except EngineFailed as failed:
                error = failed
                resident.strikes += 1
                resident.advance(Event.RETRY, str(failed))
                self._replicas.publish(resident)
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

"""What a neuron says of itself: report, health, discovery, version. Composed anew each time, from what is true now."""

from __future__ import annotations

import os
import platform
import socket

from msgspec import structs

from cortex_core.fleet import Checkpoint, Device, State
from cortex_core.neuron_api import Discovery, Gauges, Health, ReplicaHealth, Report, Version
from neuron.build import build
from neuron.hardware.probe import rss_mb
from neuron.sizing.checkpoints import Facts
from neuron.sizing.fit import as_checkpoint
from neuron.supervisor.parts import Parts
from neuron.supervisor.replicas import Replicas
from neuron.supervisor.resident import Resident
from neuron.supervisor.standing import Standing

SLOW_S = 10.0  # without a token, while there is work: worth a look, long before the watchdog acts
WAITS = ("", "turn")  # phases of a load that has not begun
SLOW_LOAD_S = 30.0  # without a step of its load: compiling may take so long


class Reports:
    """Reads everything, changes nothing but the events' numbers."""

    def __init__(self, parts: Parts, replicas: Replicas, standing: Standing) -> None:
        self._name = parts.name
        self._instance_id = parts.instance_id
        self._host = parts.host
        self._owners = parts.owners
        self._learned = parts.learned
        self._hub = parts.hub
        self._clock = parts.clock
        self._replicas = replicas
        self._standing = standing
        self._began = parts.clock()

    def version(self) -> Version:
        return Version(build=build(), name=self._name, instance_id=self._instance_id)

    def report(self) -> Report:
        return Report(
            name=self._name,
            instance_id=self._instance_id,
            seq=self._hub.seq,
            build=build(),
            devices=self._devices(),
            replicas=self._replicas.views(),
            checkpoints=self._checkpoints(),
            known=self._learned.all_known(),
            failures=self._learned.failures(),
            demand=self._replicas.demands(),
            pins=self._learned.pins(),
            cordoned=self._learned.cordoned,
            simulated=self._host.simulated,
        )

    def gauges(self) -> Gauges:
        residents = list(self._replicas)
        return Gauges(
            seq=self._hub.number(),
            in_flight={r.id: r.gate.in_flight for r in residents},
            queue={r.id: r.gate.queue for r in residents},
            idle_s={r.id: r.idle_s() for r in residents},
            evictable_in_s={r.id: self._replicas.evictable_in_s(r) for r in residents},
            devices=self._devices(),
        )

    def health(self) -> Health:
        replicas = tuple(self._replica_health())
        engines = self._owners.describe()
        problems = self._host.problems() + [engine.problem for engine in engines if engine.problem]
        problems += [f"{replica.model}: {replica.reason}" for replica in replicas if not replica.ok]
        failures = [failure for failure in self._learned.failures() if failure.retry_in_s > 0]
        problems += [f"{failure.model}: {failure.message}" for failure in failures]
        problems += self._standing.problems() + self._learned.problems()
        if self._learned.cordoned:
            problems.append(f"cordoned: {self._learned.cordon_reason or 'no reason given'}")
        warm = all(engine.ready for engine in engines)
        return Health(
            status="impaired" if problems else "ok" if warm else "starting",
            name=self._name,
            instance_id=self._instance_id,
            uptime_s=round(self._clock() - self._began, 3),
            problems=tuple(problems),
            engines=engines,
            devices=self._devices(),
            replicas=replicas,
            rss_mb=round(rss_mb(), 1),
            host_available_mb=self._host.probe.host_available_mb,
            disk_free_mb=self._host.probe.disk_free_mb,
        )

    def alive(self) -> Health:
        """What a stranger may know: that there is a neuron, and how it is."""
        return Health(
            status=self.health().status, name=self._name, instance_id=self._instance_id, uptime_s=self._uptime()
        )

    def discovery(self) -> Discovery:
        probe = self._host.probe
        return Discovery(
            name=self._name,
            instance_id=self._instance_id,
            hostname=socket.gethostname(),
            os=_os_name(),
            kernel=os.uname().release,
            python=platform.python_version(),
            driver_version=probe.driver_version,
            cuda_version=probe.cuda_version,
            cuda_unavailable_reason=probe.cuda_unavailable_reason,
            devices=self._devices(),
            engines=self._owners.describe(),
            models_dir=str(self._host.models_dir),
            checkpoints=self._checkpoints(),
            host_memory_mb=probe.host_memory_mb,
            disk_mb=probe.disk_mb,
        )

    def _uptime(self) -> float:
        return round(self._clock() - self._began, 3)

    def _devices(self) -> tuple[Device, ...]:
        return self._host.devices(self._replicas.held_mb())

    def _checkpoints(self) -> tuple[Checkpoint, ...]:
        return tuple(self._checkpoint(facts) for facts in self._host.checkpoints.values())

    def _checkpoint(self, facts: Facts) -> Checkpoint:
        problem = facts.problem or self._owners.unknown(facts.architecture)
        return as_checkpoint(structs.replace(facts, problem=problem), self._host.kind)

    def _replica_health(self) -> list[ReplicaHealth]:
        return [self._health_of(resident) for resident in self._replicas]

    def _health_of(self, resident: Resident) -> ReplicaHealth:
        busy = resident.gate.in_flight > 0 and resident.state in (State.READY, State.DRAINING)
        loads = resident.state is State.LOADING and resident.phase not in WAITS
        since_s = round(self._clock() - resident.progressed_at, 3) if busy or loads else 0.0
        problem = ""
        if busy and since_s >= SLOW_S:
            problem = f"no token for {since_s:.0f} s"
        elif loads and since_s >= SLOW_LOAD_S:
            problem = f"no progress of its load for {since_s:.0f} s, in {resident.phase}"
        elif resident.strikes and resident.state in (State.RECOVERING, State.LOADING):
            problem = f"it is being started again: {resident.died_of}"
        elif resident.state is State.READY:
            problem = resident.reason  # it hung, and it is not known yet whether it goes on
        return ReplicaHealth(
            id=resident.id,
            model=resident.model,
            state=resident.state.value,
            ok=not problem,
            reason=problem or resident.reason,
            in_flight=resident.gate.in_flight,
            queue=resident.gate.queue,
            since_progress_s=since_s,
        )


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        return platform.system()

"""What is heard of neurons, and what the fleet is after it: `apply(fleet, event) → fleet`.

Reports carry whole objects with a `seq`: an older one changes nothing, a newer one replaces, and another
`instance_id` behind an address means that all that was believed of it is void.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct, structs

from cortex_core.fleet import Checkpoint, Failure, Fleet, Neuron, Profile, Replica, State
from cortex_core.neuron_api import DemandEvent, Discovery, Gauges, ReplicaEvent, Report

GONE = frozenset({State.ABSENT, State.FAILED})


class Reported(Struct, frozen=True):
    """A snapshot or a poll: everything a neuron says of itself."""

    neuron: str
    report: Report
    at: float = 0.0


class Discovered(Struct, frozen=True):
    neuron: str
    discovery: Discovery


class ReplicaChanged(Struct, frozen=True):
    neuron: str
    instance_id: str
    event: ReplicaEvent
    at: float = 0.0


class Answered(Struct, frozen=True):
    """Replicas that came with the answer of a command: newer ones by `version` count, since they carry no `seq`."""

    neuron: str
    instance_id: str
    replicas: tuple[Replica, ...] = ()
    failure: Failure | None = None


class Beat(Struct, frozen=True):
    neuron: str
    instance_id: str
    gauges: Gauges
    at: float = 0.0


class Demanded(Struct, frozen=True):
    neuron: str
    instance_id: str
    event: DemandEvent
    at: float = 0.0


class Lost(Struct, frozen=True):
    """No sign of life for too long. What was known stays in the picture, for what it could serve."""

    neuron: str
    problem: str


class Reprofiled(Struct, frozen=True):
    """The catalogue was read again."""

    profiles: Mapping[str, Profile]


Event = Reported | Discovered | ReplicaChanged | Answered | Beat | Demanded | Lost | Reprofiled


def empty_fleet(neurons: Iterable[tuple[str, str]], profiles: Mapping[str, Profile]) -> Fleet:
    """A fleet of (name, endpoint) that nothing has been heard of."""
    return Fleet(neurons={name: Neuron(name=name, endpoint=url) for name, url in neurons}, profiles=profiles)


def apply(fleet: Fleet, event: Event) -> Fleet:
    """The fleet after the event; the same object when it changes nothing."""
    if isinstance(event, Reprofiled):
        return structs.replace(fleet, profiles=event.profiles)
    before = fleet.neurons.get(event.neuron)
    if before is None:
        return fleet
    after = _after(before, event)
    if after is before:
        return fleet
    neurons = {**fleet.neurons, event.neuron: after}
    if _residents(before) == _residents(after):
        return structs.replace(fleet, neurons=neurons)
    return structs.replace(fleet, neurons=neurons, resident=_index(neurons.values()))


def _after(neuron: Neuron, event: Event) -> Neuron:
    match event:
        case Reported(report=report):
            return _reported(neuron, report, event.at)
        case Discovered(discovery=found):
            same = found.instance_id == neuron.instance_id
            return structs.replace(neuron, checkpoints=_folders(found.checkpoints)) if same else neuron
        case ReplicaChanged():
            return _changed(neuron, event) if event.instance_id == neuron.instance_id else neuron
        case Answered():
            return _answered(neuron, event) if event.instance_id == neuron.instance_id else neuron
        case Beat(gauges=gauges):
            fresh = event.instance_id == neuron.instance_id and gauges.seq >= neuron.seq
            return _beaten(neuron, gauges, event.at) if fresh else neuron
        case Demanded(event=posted):
            fresh = event.instance_id == neuron.instance_id and posted.seq >= neuron.seq
            return structs.replace(neuron, seq=posted.seq, demand=posted.demand) if fresh else neuron
        case Lost(problem=problem):
            return structs.replace(neuron, up=False, problem=problem) if neuron.up or not neuron.problem else neuron
        case Reprofiled():
            return neuron


def _reported(neuron: Neuron, report: Report, at: float) -> Neuron:
    same = report.instance_id == neuron.instance_id
    if same and report.seq < neuron.seq:
        return neuron
    return structs.replace(
        neuron,
        up=True,
        problem="",
        instance_id=report.instance_id,
        seq=report.seq,
        build=report.build,
        devices=report.devices,
        replicas=tuple(replica for replica in report.replicas if replica.state not in GONE),
        checkpoints=_folders(report.checkpoints) or (neuron.checkpoints if same else {}),
        known={(known.model, known.digest): known for known in report.known},
        failures=report.failures,
        demand=report.demand,
        pins=report.pins,
        cordoned=report.cordoned,
        simulated=report.simulated,
        at=at,
        ahead=frozenset(),
    )


def _folders(checkpoints: Iterable[Checkpoint]) -> dict[str, Checkpoint]:
    return {checkpoint.name: checkpoint for checkpoint in checkpoints}


def _changed(neuron: Neuron, event: ReplicaChanged) -> Neuron:
    if event.event.seq <= neuron.seq:
        return neuron
    told = event.event.replica
    aged = tuple(_aged(replica, event.at - neuron.at) for replica in neuron.replicas)
    return structs.replace(
        neuron,
        up=True,
        problem="",
        seq=event.event.seq,
        at=event.at,
        replicas=_with(aged, told),
        ahead=neuron.ahead - {told.id},
    )


def _answered(neuron: Neuron, answer: Answered) -> Neuron:
    after, ahead = neuron.replicas, neuron.ahead
    for replica in answer.replicas:
        known = next((r for r in after if r.id == replica.id), None)
        if known is None or replica.version > known.version:
            after, ahead = _with(after, replica), ahead | {replica.id}
    failures = neuron.failures if answer.failure is None else (*neuron.failures, answer.failure)
    if after is neuron.replicas and failures is neuron.failures:
        return neuron
    return structs.replace(neuron, replicas=after, failures=failures, ahead=ahead)


def _beaten(neuron: Neuron, gauges: Gauges, at: float) -> Neuron:
    """Gauges that were taken before an answer overtook them say nothing of the replica that it told of."""
    replicas = tuple(
        _gauged(replica, gauges) if replica.id not in neuron.ahead else _aged(replica, at - neuron.at)
        for replica in neuron.replicas
    )
    devices = gauges.devices or neuron.devices
    return structs.replace(neuron, up=True, problem="", seq=gauges.seq, at=at, replicas=replicas, devices=devices)


def _gauged(replica: Replica, gauges: Gauges) -> Replica:
    return structs.replace(
        replica,
        in_flight=gauges.in_flight.get(replica.id, replica.in_flight),
        queue=gauges.queue.get(replica.id, replica.queue),
        idle_s=gauges.idle_s.get(replica.id, replica.idle_s),
        evictable_in_s=gauges.evictable_in_s.get(replica.id, replica.evictable_in_s),
    )


def _aged(replica: Replica, by_s: float) -> Replica:
    """What was told of it so many seconds ago, as it is now if nothing happened."""
    if by_s <= 0 or not (replica.evictable_in_s or replica.idle_s):
        return replica
    idle_s = replica.idle_s + by_s if replica.idle_s else 0.0
    return structs.replace(replica, evictable_in_s=max(0.0, replica.evictable_in_s - by_s), idle_s=idle_s)


def _with(replicas: tuple[Replica, ...], replica: Replica) -> tuple[Replica, ...]:
    """The list with this replica as it is now: a gone one leaves it, a known one keeps its place."""
    if replica.state in GONE:
        return tuple(r for r in replicas if r.id != replica.id)
    if any(r.id == replica.id for r in replicas):
        return tuple(replica if r.id == replica.id else r for r in replicas)
    return (*replicas, replica)


def _residents(neuron: Neuron) -> list[tuple[str, str]]:
    return [(replica.model, replica.id) for replica in neuron.replicas]


def _index(neurons: Iterable[Neuron]) -> dict[str, tuple[tuple[str, str], ...]]:
    index: dict[str, list[tuple[str, str]]] = {}
    for neuron in neurons:
        for replica in neuron.replicas:
            index.setdefault(replica.model, []).append((neuron.name, replica.id))
    return {model: tuple(places) for model, places in index.items()}

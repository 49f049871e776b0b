"""What must never be, checked at every change of a replica, at every answer and at rest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cortex_core.fleet import Profile, Replica, State
from cortex_gateway.dispatch.dispatcher import Want
from cortex_gateway.policy.survey import Survey
from cortex_gateway.sim.gateway import SimGateway
from cortex_gateway.sim.neuron import SimNeuron
from cortex_gateway.sim.truth import Row

LATE_S = 2.0  # how much longer than `hold_s` a request may be held: the relay's pauses, and the way back
PARTED_S = 10.0  # the same when a partition lay between: until it is noticed
CONVERGE_S = 30.0  # after the last fault, every gateway's picture is the truth again


class Violation(AssertionError):
    """An invariant does not hold."""


def check_change(neuron: SimNeuron, row: Row, gateways: Iterable[SimGateway]) -> None:
    """After a replica of a neuron changed."""
    check_memory(neuron)
    loading = [r.model for r in neuron.rows.values() if r.state is State.LOADING]
    _must(len(loading) == len(set(loading)), f"{neuron.name} loads a model twice: {loading}")
    if row.state is State.UNLOADING:
        _must(row.engine.in_flight == 0, f"{neuron.name} unloads {row.id} under {row.engine.in_flight} leases")
        if row.engine.begun == 0 and neuron.guard_s:
            _check_served_somebody(neuron, row, gateways)


def check_memory(neuron: SimNeuron) -> None:
    for device in neuron.devices:
        free_mb = neuron.free_mb(device) + device.used_by_others_mb  # a stranger asks nobody
        _must(free_mb >= 0, f"{neuron.name}/{device.id} is over-committed by {-free_mb} MB")


def _check_served_somebody(neuron: SimNeuron, row: Row, gateways: Iterable[SimGateway]) -> None:
    """It leaves and served nobody: then nobody who could have reached it was waiting for it all the time."""
    ready_s = neuron.now - row.ready_at if row.ready_at is not None else 0.0
    for gateway in gateways:
        link = gateway.links.get(neuron.name)
        if link is None or neuron.cordoned or link.is_cut or link.loss or link.healed_at > (row.ready_at or 0.0):
            continue
        waits_s = [neuron.now - want.arrived for want in gateway.waiting.values() if want.model == row.model]
        _must(
            max(waits_s, default=0.0) <= ready_s or not ready_s,
            f"{neuron.name} lets {row.id} ({row.model}) go, which served nobody for {ready_s:g} s "
            f"while {len(waits_s)} waited at {gateway.name}, the first for {max(waits_s, default=0.0):g} s",
        )


def check_books(gateway: SimGateway) -> None:
    """At any time: the dispatcher knows of every lease that is held."""
    for (neuron, replica), held in gateway.held.items():
        counted = gateway.dispatcher.leases(neuron, replica)
        _must(counted >= held, f"{gateway.name} counts {counted} leases on {replica}, and {held} are held")


def check_survey(gateway: SimGateway, name: str) -> None:
    """At any time: what the dispatcher keeps of a neuron is what it would find now."""
    picture = gateway.dispatcher.picture()
    neuron = picture.fleet.neurons[name]
    kept, found = picture.surveys.of(picture, neuron), Survey(picture, neuron)
    _must(kept.until <= found.until, f"{gateway.name} keeps a survey of {name} longer than a turn there")
    by_age = () if picture.strategy == "cost" else ("least", "prices")  # told by how long ago, hence not to the instant
    for slot in set(Survey.__slots__) - {"until", *by_age}:
        believed, true = getattr(kept, slot), getattr(found, slot)
        _must(believed == true, f"{gateway.name} keeps {slot} {believed} of {name}, and it is {true}")


def check_held(want: Want, now: float, kind: str, late_s: float) -> None:
    """When a request is told to come again: it was not held for longer than promised."""
    held_s = now - want.arrived
    late = held_s > want.hold_s + late_s and kind != "upstream_failed"  # that one had a lease
    _must(not late, f"{want.request_id} was held for {held_s:g} s, and then refused with {kind}")


def check_cannot_fit(profile: Profile, need_mb: int, neurons: Iterable[SimNeuron]) -> None:
    """When somebody is told that a model can never fit: no neuron is large enough, pins aside."""
    share_mb = -(-need_mb // profile.min_devices)
    large = [n.name for n in neurons if sum(d.memory_mb >= share_mb for d in n.devices) >= profile.min_devices]
    _must(not large, f"{profile.id} of {need_mb} MB is said to fit nowhere, and fits on {large}")


def check_rest(gateway: SimGateway) -> None:
    """When every client has its answer, nothing is left of them."""
    dispatcher = gateway.dispatcher
    for (neuron, replica), held in gateway.held.items():
        counted = dispatcher.leases(neuron, replica)
        _must(held == 0 and counted == 0, f"{gateway.name} is left with {counted} leases on {replica}")
    _must(not dispatcher.waiting(), f"{gateway.name} is left with waiters: {dispatcher.waiting()}")


def apart(gateways: Iterable[SimGateway], neurons: Mapping[str, SimNeuron]) -> str:
    """Where a gateway's picture is not the truth; empty: nowhere."""
    for gateway in gateways:
        for name in gateway.links:
            truth = neurons[name]
            picture = gateway.dispatcher.fleet.neurons[name]
            if picture.up != truth.up or picture.instance_id != truth.instance_id:
                return f"{gateway.name} believes {name} to be {picture.instance_id}, {'up' if picture.up else 'down'}"
            believed, true = _states(picture.replicas), _states(map(truth.view, truth.rows.values()))
            if believed != true:
                return f"{gateway.name} believes {name} to have {sorted(believed)}, it has {sorted(true)}"
    return ""


def _states(replicas: Iterable[Replica]) -> set[tuple[str, int, State]]:
    return {(replica.id, replica.version, replica.state) for replica in replicas}


class Turns:
    """For how long each model had waiters and no replica that takes requests: how long it waited for its turn."""

    def __init__(self) -> None:
        self.longest_s: dict[str, float] = {}
        self._since: dict[str, float] = {}

    def look(self, now: float, neurons: Iterable[SimNeuron], gateways: Iterable[SimGateway]) -> None:
        """At each change, and once a second."""
        wanted = {model: None for gateway in gateways for model in gateway.dispatcher.waiting()}
        here = {row.model for neuron in neurons for row in neuron.rows.values() if row.state is State.READY}
        for model in (*wanted, *self._since):
            if model in wanted and model not in here:
                self._since.setdefault(model, now)
            elif model in self._since:
                waited_s = now - self._since.pop(model)
                self.longest_s[model] = max(waited_s, self.longest_s.get(model, 0.0))


def _must(holds: bool, told: str) -> None:
    if not holds:
        raise Violation(told)

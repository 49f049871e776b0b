"""What the API says, as text for people. Pure: the same view gives the same text.

Nothing here is trusted: text that came over the network cannot move the terminal's cursor. Whatever a simulated
engine does is called simulated on its own line.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import click

from cortex_core.fleet import Replica, State
from cortex_core.gateway_api import DeviceView, Explanation, FleetView, Location, Model, NeuronView

COLOURS = {"ready": "green", "up": "green", "failed": "red", "down": "red", "loading": "yellow", "waking": "yellow"}
COLOURS |= {"draining": "yellow", "unloading": "yellow", "recovering": "red", "cordoned": "yellow"}
NONE = "-"


def status(view: FleetView, gateway: str, colour: bool) -> str:
    """Everything at a glance."""
    up = sum(neuron.up for neuron in view.neurons)
    head = (
        f"cortex {plain(view.version)} at {gateway}: up {duration(view.uptime_s)}, {up} of {len(view.neurons)} neurons"
    )
    devices = [_device_row(neuron, device) for neuron in view.neurons for device in neuron.devices or (None,)]
    models = [row for model in view.models for row in _model_rows(view, model)]
    parts = [
        head,
        table(("NEURON", "DEVICE", "MEMORY", "HELD", "OTHERS", "FREE", "STATE"), devices, colour),
        table(("MODEL", "NEURON", "DEVICES", "MEMORY", "IN FLIGHT", "WAITING", "STATE"), models, colour),
        table(("FAILED", "NEURON", "CODE", "AGAIN IN", "REASON"), _failures(view), colour),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def ps(view: FleetView, colour: bool) -> str:
    """What is loaded."""
    rows = [
        (
            replica.model,
            neuron.name,
            _devices(replica),
            megabytes(_held(replica)),
            _in_flight(replica),
            str(replica.queue),
            str(replica.context or NONE),
            "yes" if replica.pinned else NONE,
            duration(replica.idle_s) if replica.state is State.READY and not replica.in_flight else NONE,
            _state(replica),
        )
        for neuron in view.neurons
        for replica in neuron.replicas
    ]
    head = ("MODEL", "NEURON", "DEVICES", "MEMORY", "IN FLIGHT", "QUEUE", "CONTEXT", "PINNED", "IDLE", "STATE")
    return (table(head, rows, colour) or "nothing is loaded") + "\n"


def explanation(said: Explanation) -> str:
    """What would happen to a request, and what every neuron has to do with it."""
    about = f", in about {duration(said.after_s)}" if said.after_s else ""
    gone = f" ({', '.join(plain(model) for model in said.must_leave)} would go)" if said.must_leave else ""
    rows = [
        (
            place.neuron,
            "now" if place.now else "possible" if place.possible else "never",
            megabytes(place.need_mb),
            ", ".join(
                f"{room.id} {megabytes(room.free_mb)} of {megabytes(room.memory_mb)} free" for room in place.devices
            )
            or NONE,
            place.reason,
        )
        for place in said.places
    ]
    parts = [
        f"{said.outcome}: {plain(said.reason)}{about}{gone}",
        table(("NEURON", "CAN", "NEEDS", "DEVICES", "WHY"), rows, False),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def ls(view: FleetView, colour: bool) -> str:
    """What can be served."""
    rows = [
        (
            model.id,
            str(model.max_model_len) if isinstance(model.max_model_len, int) else NONE,
            _waiting(view, model.id),
            ", ".join(model.feasible_on) or NONE,
            ", ".join(_location(place) for place in model.locations) or "unloaded",
        )
        for model in view.models
    ]
    return (table(("MODEL", "CONTEXT", "WAITING", "FITS ON", "STATE"), rows, colour) or "no model is known") + "\n"


def _device_row(neuron: NeuronView, device: DeviceView | None) -> Sequence[str]:
    state = _neuron_state(neuron)
    if device is None or not neuron.up:
        return (neuron.name, NONE, NONE, NONE, NONE, NONE, state)
    memory = (device.memory_mb, device.held_mb, device.others_mb, device.free_mb)
    return (neuron.name, device.id, *map(megabytes, memory), state)


def _neuron_state(neuron: NeuronView) -> str:
    words = ["up" if neuron.up else "down"]
    words += ["cordoned"] if neuron.cordoned else []
    words += ["simulated"] if neuron.simulated else []
    return ", ".join(words) + (f": {neuron.problem}" if neuron.problem else "")


def _model_rows(view: FleetView, model: Model) -> Iterable[Sequence[str]]:
    found = [(n, r) for n in view.neurons for r in n.replicas if r.model == model.id]
    waiting = _waiting(view, model.id)
    for neuron, replica in found:
        held = megabytes(_held(replica))
        yield (model.id, neuron.name, _devices(replica), held, _in_flight(replica), waiting, _state(replica))
    if not found:
        fits = f"unloaded; fits on {', '.join(model.feasible_on)}" if model.feasible_on else "unloaded; fits nowhere"
        yield (model.id, NONE, NONE, NONE, NONE, waiting, fits)


def _failures(view: FleetView) -> list[Sequence[str]]:
    return [
        (failure.model, neuron.name, failure.code, duration(failure.retry_in_s), failure.message)
        for neuron in view.neurons
        for failure in neuron.failures
    ]


def _state(replica: Replica) -> str:
    words = [replica.state.value]
    if replica.state in (State.LOADING, State.WAKING, State.RECOVERING):
        words += [f"{replica.phase} {replica.progress:.0%}"] if replica.phase else []
        words += [f"{duration(replica.expected_s)} to go"] if replica.expected_s else []
    words += ["simulated"] if replica.simulated else []
    return ", ".join(words) + (f": {replica.reason}" if replica.reason else "")


def _location(place: Location) -> str:
    return f"{place.state.value} on {place.neuron}" + (" (simulated)" if place.simulated else "")


def _devices(replica: Replica) -> str:
    return ",".join(share.id for share in replica.devices) or NONE


def _held(replica: Replica) -> int:
    return sum(share.memory_mb for share in replica.devices) if replica.holds_memory else 0


def _in_flight(replica: Replica) -> str:
    return f"{replica.in_flight}/{replica.max_in_flight}" if replica.max_in_flight else str(replica.in_flight)


def _waiting(view: FleetView, model: str) -> str:
    waiting = view.waiting.get(model)
    return f"{waiting.waiters} ({duration(waiting.oldest_wait_s)})" if waiting and waiting.waiters else NONE


# ------------------------------------------------------------------------------------------------- words and tables


def megabytes(count: int) -> str:
    """2**20 bytes as people say it."""
    return f"{count} MiB" if abs(count) < 10_240 else f"{count / 1024:.1f} GiB"


def duration(seconds: float) -> str:
    """Two units at most: what matters of an age."""
    whole = round(seconds)
    if seconds < 10:
        return f"{seconds:.1f} s"
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min" if whole < 172_800 else f"{whole // 86_400} d"


def plain(text: str) -> str:
    """Without anything that a terminal would obey."""
    return "".join(c if c.isprintable() else "�" for c in text)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], colour: bool) -> str:
    """Columns as wide as they need, left to the terminal to wrap: nothing is cut. Empty without rows."""
    if not rows:
        return ""
    cells = [[plain(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    lines = [_line(head, widths, colour)]
    lines += [_line(row, widths, colour) for row in cells]
    return "\n".join(lines)


def _line(row: Sequence[str], widths: Sequence[int], colour: bool) -> str:
    *front, last = row
    start = "".join(cell.ljust(width + 2) for cell, width in zip(front, widths[:-1], strict=True))
    return start + (_coloured(last) if colour else last)


def _coloured(text: str) -> str:
    """The first word of a state in its colour."""
    word = text.partition(",")[0].partition(":")[0].partition(" ")[0]
    return click.style(word, fg=COLOURS[word]) + text[len(word) :] if word in COLOURS else text

"""What a simulation is of: neurons, models, gateways, clients and faults, as values; and one drawn from a seed."""

from __future__ import annotations

import random
from collections.abc import Mapping

from msgspec import Struct

from cortex_core.fleet import Device, Profile
from cortex_gateway.dispatcher import Rules
from cortex_gateway.sim.clients import Client, poisson, sequential, sessions, together, zipf
from cortex_gateway.sim.engine import Speed
from cortex_gateway.sim.trouble import Fault, Kind
from cortex_gateway.sim.truth import LoadFault, Model


class Scenario(Struct, frozen=True, kw_only=True):
    neurons: Mapping[str, tuple[Device, ...]]
    models: Mapping[str, Model]
    profiles: Mapping[str, Profile]
    gateways: Mapping[str, float]  # name → seconds to each neuron, one way
    rules: Rules = Rules()
    clients: tuple[Client, ...] = ()
    faults: tuple[Fault, ...] = ()
    limit_s: float = 3600.0  # virtual; a simulation that takes longer is stuck


def device(memory_mb: int, number: int = 0) -> Device:
    return Device(id=f"cuda:{number}", name="Card", kind="cuda", memory_mb=memory_mb)


def models(*needs_mb: int, load_s: float = 10.0, speed: Speed | None = None) -> dict[str, Model]:
    """Models m1, m2, … of these sizes."""
    return {f"m{n}": Model(need_mb=mb, load_s=load_s, speed=speed or Speed()) for n, mb in enumerate(needs_mb, 1)}


def profiles(models: Mapping[str, Model]) -> dict[str, Profile]:
    return {name: Profile(id=name, vram_mb=model.need_mb) for name, model in models.items()}


def drawn(seed: int, *, neurons: int = 3, requests: int = 100, over_s: float = 40.0) -> Scenario:
    """A small fleet in trouble. Times are whole seconds, so that what can happen together does."""
    dice = random.Random(f"scenario {seed}")
    known = {
        f"m{number}": Model(
            need_mb=dice.choice([6, 8, 10, 16]) * 1024,
            load_s=float(dice.choice([2, 3, 5, 8])),
            unload_s=float(dice.choice([0, 1])),
            speed=Speed(max_in_flight=dice.choice([2, 4, 8]), max_queue_depth=dice.choice([0, 2, 8])),
        )
        for number in range(1, dice.randint(2, 6) + 1)
    }
    names = tuple(known)
    fleet = {f"n{number}": (device(24 * 1024),) for number in range(1, neurons + 1)}
    gateways = {"gw1": dice.choice([0.0, 0.001, 0.05])}
    if dice.random() < 0.5:
        gateways["gw2"] = dice.choice([0.0, 0.002, 0.2])
    kind = dice.choice([poisson, zipf, sessions, together, sequential])
    clients = kind(dice, names, tuple(gateways), requests, over_s)
    return Scenario(
        neurons=fleet,
        models=known,
        profiles=profiles(known),
        gateways=gateways,
        clients=clients,
        faults=tuple(_fault(dice, tuple(fleet), names, tuple(gateways), over_s) for _ in range(dice.randint(0, 4))),
    )


def _fault(
    dice: random.Random, neurons: tuple[str, ...], models: tuple[str, ...], gateways: tuple[str, ...], over_s: float
) -> Fault:
    kinds: tuple[Kind, ...] = (
        "crash",
        "crash",
        "partition",
        "partition",
        "loss",
        "load",
        "load",
        "cordon",
        "gateway",
    )
    kind = dice.choice(kinds)
    load = LoadFault(
        slower=dice.choice([1.0, 4.0]),
        fails_at=dice.choice([0.0, 0.5, 1.0, 2.0]),
        scope=dice.choice(["model", "device", "neuron"]),
    )
    return Fault(
        at_s=float(dice.randint(0, int(over_s))),
        kind=kind,
        neuron=dice.choice(neurons),
        gateway=dice.choice(["", *gateways]) if kind != "gateway" else dice.choice(gateways),
        for_s=float(dice.choice([1, 3, 8, 15])),
        model=dice.choice(models),
        load=load,
        loss=dice.choice([0.2, 0.5, 0.9]),
    )

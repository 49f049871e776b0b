"""A scenario drawn from a seed: a small fleet under more than it can hold, in trouble.

Times are whole seconds, so that what can happen together does.
"""

from __future__ import annotations

import random

from cortex_core.fleet import Device, Profile, Replicas
from cortex_gateway.dispatch.dispatcher import Rules
from cortex_gateway.policy.eviction import Strategy
from cortex_gateway.sim.clients import Client, poisson, sequential, sessions, together, zipf
from cortex_gateway.sim.engine import Speed
from cortex_gateway.sim.scenario import Scenario, device
from cortex_gateway.sim.trouble import Fault, Kind
from cortex_gateway.sim.truth import LoadFault, Model

KINDS: tuple[Kind, ...] = (
    *("crash", "crash", "engine", "engine", "partition", "partition", "clog", "loss", "load", "load", "load"),
    *("cordon", "gateway", "unload", "pin", "stranger"),
)
STRATEGIES: tuple[Strategy, ...] = ("cost", "cost", "lru", "priority")


def drawn(seed: int, *, requests: int = 100, over_s: float = 40.0) -> Scenario:
    """One to three neurons, two to six models, one or two gateways, up to five faults."""
    dice = random.Random(f"scenario {seed}")
    fleet = {f"n{number}": _devices(dice) for number in range(1, dice.randint(1, 3) + 1)}
    known = {f"m{number}": _model(dice) for number in range(1, dice.randint(2, 6) + 1)}
    gateways = {"gw1": dice.choice([0.0, 0.001, 0.05])}
    if dice.random() < 0.5:
        gateways["gw2"] = dice.choice([0.0, 0.002, 0.2])
    kind = dice.choice([poisson, zipf, sessions, together, sequential])
    strategy = dice.choice(STRATEGIES)
    clients: tuple[Client, ...] = kind(dice, tuple(known), tuple(gateways), requests, over_s)
    faults = (_fault(dice, tuple(fleet), tuple(known), tuple(gateways), over_s) for _ in range(dice.randint(0, 5)))
    return Scenario(
        neurons=fleet,
        models=known,
        profiles={name: _profile(dice, name, model, tuple(fleet), strategy) for name, model in known.items()},
        gateways=gateways,
        rules=Rules(strategy=strategy, defrag_after=dice.choice([0, 3])),
        clients=clients,
        faults=tuple(faults),
    )


def _devices(dice: random.Random) -> tuple[Device, ...]:
    memory_mb = dice.choice([16, 24, 24, 48]) * 1024
    return tuple(device(memory_mb, number) for number in range(dice.choice([1, 1, 2])))


def _model(dice: random.Random) -> Model:
    return Model(
        need_mb=dice.choice([6, 8, 10, 16, 20, 60]) * 1024,
        load_s=float(dice.choice([2, 3, 5, 8])),
        unload_s=float(dice.choice([0, 1])),
        speed=Speed(max_in_flight=dice.choice([2, 4, 8]), max_queue_depth=dice.choice([0, 2, 8])),
    )


def _profile(dice: random.Random, name: str, model: Model, neurons: tuple[str, ...], strategy: Strategy) -> Profile:
    return Profile(
        id=name,
        vram_mb=model.need_mb if dice.random() < 0.7 else 0,  # unwritten: the neuron's refusal teaches it
        min_devices=dice.choice([1, 1, 1, 1, 2]),
        pinned_on=(dice.choice(neurons),) if dice.random() < 0.1 else (),
        residency_priority=dice.choice([None, None, 50, 200]),
        # Under `priority` a lower model waits until a higher one leaves by itself.
        replicas=Replicas(min=dice.choice([0, 0, 0, 1]) if strategy != "priority" else 0, max=dice.choice([1, 1, 2])),
        ttl_s=dice.choice([0.0, 0.0, 5.0]) if strategy != "priority" else 5.0,
    )


def _fault(
    dice: random.Random, neurons: tuple[str, ...], models: tuple[str, ...], gateways: tuple[str, ...], over_s: float
) -> Fault:
    kind = dice.choice(KINDS)
    return Fault(
        at_s=float(dice.randint(0, int(over_s))),
        kind=kind,
        neuron=dice.choice(neurons) if kind != "clog" else "",
        gateway=dice.choice(["", *gateways]),
        for_s=float(dice.choice([1, 3, 8, 15])),
        model=dice.choice(models),
        load=LoadFault(
            slower=dice.choice([1.0, 4.0]),
            fails_at=dice.choice([0.0, 0.5, 1.0, 2.0]),
            scope=dice.choice(["model", "device", "neuron"]),
        ),
        mode=dice.choice(["idle", "drain", "cut"]),
        loss=dice.choice([0.2, 0.5, 0.9]),
        memory_mb=dice.choice([2, 8]) * 1024,
    )

"""What goes wrong: faults as values, and how each befalls a running simulation."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Literal, Protocol

from msgspec import Struct

from cortex_core.neuron_api import CordonRequest
from cortex_gateway.sim.gateway import SimGateway
from cortex_gateway.sim.neuron import SimNeuron
from cortex_gateway.sim.truth import LoadFault

Kind = Literal["crash", "partition", "loss", "load", "cordon", "gateway"]


class Fault(Struct, frozen=True, kw_only=True):
    """Something that goes wrong at `at_s`, and is right again `for_s` later."""

    at_s: float
    kind: Kind
    neuron: str = ""  # empty: every one
    gateway: str = ""  # of a partition, a loss or a gateway's death; empty: every one
    for_s: float = 0.0
    model: str = ""  # of a load
    load: LoadFault = LoadFault()
    loss: float = 0.5  # the share of events and polls


class World(Protocol):
    """What a fault can get hold of."""

    @property
    def neurons(self) -> Mapping[str, SimNeuron]: ...

    @property
    def gateways(self) -> Mapping[str, SimGateway]: ...

    def replace(self, gateway: SimGateway) -> None:
        """Its process died, and another is started in its place."""
        ...


async def befall(fault: Fault, world: World) -> None:
    """Until it is right again."""
    await asyncio.sleep(fault.at_s)
    neurons = [neuron for neuron in world.neurons.values() if fault.neuron in {"", neuron.name}]
    gateways = [gateway for gateway in world.gateways.values() if fault.gateway in {"", gateway.name}]
    match fault.kind:
        case "crash":
            await _crash(neurons, fault.for_s)
        case "partition":
            await _clog(neurons, gateways, 1.0, fault.for_s)
        case "loss":
            await _clog(neurons, gateways, fault.loss, fault.for_s)
        case "cordon":
            await _cordon(neurons, fault.for_s)
        case "load":
            for neuron in neurons:
                neuron.faults.setdefault(fault.model, []).append(fault.load)
        case "gateway":
            for gateway in gateways:
                world.replace(gateway)


async def _crash(neurons: list[SimNeuron], for_s: float) -> None:
    up = [neuron for neuron in neurons if neuron.up]
    for neuron in up:
        neuron.crash()
    await asyncio.sleep(for_s)
    for neuron in up:
        neuron.start()


async def _clog(neurons: list[SimNeuron], gateways: list[SimGateway], loss: float, for_s: float) -> None:
    links = [gateway.links[neuron.name] for gateway in gateways for neuron in neurons]
    for link in links:
        link.hurt(loss)
    await asyncio.sleep(for_s)
    for link in links:
        link.heal()


async def _cordon(neurons: list[SimNeuron], for_s: float) -> None:
    for neuron in neurons:
        neuron.cordon(CordonRequest())
    await asyncio.sleep(for_s)
    for neuron in neurons:
        neuron.cordon(CordonRequest(), cordoned=False)

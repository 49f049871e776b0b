"""What goes wrong: faults as values, and how each befalls a running simulation."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Literal, Protocol

from msgspec import Struct

from cortex_core.neuron_api import CordonRequest, PinRequest, UnloadRequest
from cortex_gateway.dispatch.commands import Refused
from cortex_gateway.sim.connection import Broken
from cortex_gateway.sim.gateway import SimGateway
from cortex_gateway.sim.link import Link
from cortex_gateway.sim.neuron import SimNeuron
from cortex_gateway.sim.truth import LoadFault

Kind = Literal["crash", "engine", "partition", "clog", "loss", "load", "cordon", "gateway", "unload", "pin", "stranger"]


class Fault(Struct, frozen=True, kw_only=True):
    """Something that goes wrong at `at_s`, and is right again `for_s` later."""

    at_s: float
    kind: Kind
    neuron: str = ""  # empty: every one
    gateway: str = ""  # of a partition, a loss or a gateway's death; empty: every one
    for_s: float = 0.0
    model: str = ""  # of an engine, a load, an unload or a pin
    load: LoadFault = LoadFault()
    mode: Literal["idle", "drain", "cut"] = "drain"  # of an unload
    loss: float = 0.5  # the share of events and polls
    memory_mb: int = 0  # that a stranger takes of each device


class World(Protocol):
    """What a fault can get hold of."""

    @property
    def neurons(self) -> Mapping[str, SimNeuron]: ...

    @property
    def gateways(self) -> Mapping[str, SimGateway]: ...

    def replace(self, gateway: SimGateway) -> None:
        """Its process died, and another is started in its place."""
        ...


class Hit(Struct, frozen=True):
    """A fault with whom it strikes."""

    fault: Fault
    neurons: tuple[SimNeuron, ...]
    gateways: tuple[SimGateway, ...]
    world: World

    @property
    def links(self) -> list[Link]:
        every = ((gateway, neuron.name) for gateway in self.gateways for neuron in self.neurons)
        return [gateway.links[name] for gateway, name in every if name in gateway.links]


async def befall(fault: Fault, world: World) -> None:
    """Until it is right again."""
    await asyncio.sleep(fault.at_s)
    neurons = tuple(neuron for neuron in world.neurons.values() if fault.neuron in {"", neuron.name})
    gateways = tuple(gateway for gateway in world.gateways.values() if fault.gateway in {"", gateway.name})
    await _BEFALL[fault.kind](Hit(fault, neurons, gateways, world))


async def _crash(hit: Hit) -> None:
    up = [neuron for neuron in hit.neurons if neuron.up]
    for neuron in up:
        neuron.crash()
    await asyncio.sleep(hit.fault.for_s)
    for neuron in up:
        neuron.start()


async def _engine(hit: Hit) -> None:
    """It dies alone, and its next start begins `for_s` later."""
    for neuron in hit.neurons:
        neuron.fell(hit.fault.model, hit.fault.for_s)


async def _partition(hit: Hit) -> None:
    links = hit.links
    for link in links:
        link.hurt(1.0 if hit.fault.kind == "partition" else hit.fault.loss)
    await asyncio.sleep(hit.fault.for_s)
    for link in links:
        link.heal()


async def _clog(hit: Hit) -> None:
    """Partition one link after the other, and heal them in another order (FoundationDB's swizzle-clogging)."""
    links = hit.links
    each_s = hit.fault.for_s / (2 * len(links))
    for link in links:
        link.hurt(1.0)
        await asyncio.sleep(each_s)
    for link in links[::2] + links[1::2]:
        link.heal()
        await asyncio.sleep(each_s)


async def _load(hit: Hit) -> None:
    for neuron in hit.neurons:
        neuron.faults.setdefault(hit.fault.model, []).append(hit.fault.load)


async def _cordon(hit: Hit) -> None:
    for neuron in hit.neurons:
        neuron.cordon(CordonRequest())
    await asyncio.sleep(hit.fault.for_s)
    for neuron in hit.neurons:
        neuron.cordon(CordonRequest(), cordoned=False)


async def _gateway(hit: Hit) -> None:
    for gateway in hit.gateways:
        hit.world.replace(gateway)


async def _unload(hit: Hit) -> None:
    """An operator's command."""
    fault = hit.fault
    for neuron in hit.neurons:
        try:
            await neuron.unload(UnloadRequest(model_id=fault.model, mode=fault.mode, drain_s=fault.for_s))
        except (Refused, Broken):
            continue


async def _pin(hit: Hit) -> None:
    for neuron in hit.neurons:
        neuron.pin(PinRequest(model=hit.fault.model))
    await asyncio.sleep(hit.fault.for_s)
    for neuron in hit.neurons:
        neuron.pin(PinRequest(model=hit.fault.model, pinned=False))


async def _stranger(hit: Hit) -> None:
    for neuron in hit.neurons:
        neuron.stranger(hit.fault.memory_mb)
    await asyncio.sleep(hit.fault.for_s)
    for neuron in hit.neurons:
        neuron.stranger(0)


_BEFALL: Mapping[Kind, Callable[[Hit], Awaitable[None]]] = {
    "crash": _crash,
    "engine": _engine,
    "partition": _partition,
    "clog": _clog,
    "loss": _partition,
    "load": _load,
    "cordon": _cordon,
    "gateway": _gateway,
    "unload": _unload,
    "pin": _pin,
    "stranger": _stranger,
}

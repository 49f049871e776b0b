"""What a simulation is of: neurons, models, gateways, clients and faults, as values."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from cortex_core.fleet import Device, Profile
from cortex_gateway.dispatch.dispatcher import Rules
from cortex_gateway.sim.clients import Client
from cortex_gateway.sim.engine import Speed
from cortex_gateway.sim.trouble import Fault
from cortex_gateway.sim.truth import GUARD_S, Model


class Scenario(Struct, frozen=True, kw_only=True):
    neurons: Mapping[str, tuple[Device, ...]]
    models: Mapping[str, Model]
    profiles: Mapping[str, Profile]
    gateways: Mapping[str, float]  # name → seconds to each neuron, one way
    rules: Rules = Rules()
    clients: tuple[Client, ...] = ()
    faults: tuple[Fault, ...] = ()
    limit_s: float = 3600.0  # virtual; a simulation that takes longer is stuck
    until_s: float | None = None  # when every client goes home
    guard_s: float = GUARD_S  # how long a fresh replica waits for its first request; 0: and no turns
    sees: Mapping[str, tuple[str, ...]] = {}  # the neurons that a gateway has been told of; unnamed: all

    def __post_init__(self) -> None:
        names = [client.name for client in self.clients]
        assert len(names) == len(set(names)), "two clients of one name: their requests would be duplicates"


def device(memory_mb: int, number: int = 0) -> Device:
    return Device(id=f"cuda:{number}", name="Card", kind="cuda", memory_mb=memory_mb)


def models(*needs_mb: int, load_s: float = 10.0, speed: Speed | None = None) -> dict[str, Model]:
    """Models m1, m2, … of these sizes."""
    return {f"m{n}": Model(need_mb=mb, load_s=load_s, speed=speed or Speed()) for n, mb in enumerate(needs_mb, 1)}


def profiles(models: Mapping[str, Model]) -> dict[str, Profile]:
    return {name: Profile(id=name, vram_mb=model.need_mb) for name, model in models.items()}

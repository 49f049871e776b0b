"""Small scenarios by hand: models m1, m2, … on neurons with one card each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import structs

from cortex_gateway.sim import Scenario
from cortex_gateway.sim.clients import Ask, Client
from cortex_gateway.sim.engine import Speed
from cortex_gateway.sim.scenario import device, models, profiles
from cortex_gateway.sim.trouble import Fault

GB = 1024


def stage(
    *needs_gb: int,
    cards_gb: tuple[int, ...] = (24,),
    clients: tuple[Client, ...] = (),
    faults: tuple[Fault, ...] = (),
    gateways: Mapping[str, float] | None = None,
    load_s: float = 5.0,
    speed: Speed | None = None,
    profile: Mapping[str, Any] | None = None,
) -> Scenario:
    """Neurons n1, n2, … with a card of so many GB each; `profile` is changed in every profile."""
    known = models(*(need * GB for need in needs_gb), load_s=load_s, speed=speed)
    return Scenario(
        neurons={f"n{number}": (device(gb * GB),) for number, gb in enumerate(cards_gb, 1)},
        models=known,
        profiles={name: structs.replace(entry, **(profile or {})) for name, entry in profiles(known).items()},
        gateways=gateways or {"gw1": 0.001},
        clients=clients,
        faults=faults,
    )


def once(model: str, at_s: float, *, tokens: int = 40, name: str = "", gateway: str = "gw1", **client: Any) -> Client:
    """Somebody who asks one thing."""
    ask = Ask(model=model, after_s=at_s, tokens=tokens)
    return Client(name=name or f"{model}@{at_s:g}", gateway=gateway, asks=(ask,), **client)


def again(
    model: str, count: int, *, pause_s: float = 0.0, tokens: int = 40, name: str = "", gateway: str = "gw1"
) -> Client:
    """Somebody who asks the same model over and over, each time `pause_s` after the answer."""
    asks = tuple(Ask(model=model, after_s=pause_s, tokens=tokens) for _ in range(count))
    return Client(name=name or f"{model} x{count}", gateway=gateway, asks=asks)

"""Pictures to decide on: cards of 24,000 MB, models m1, m2, … of a profile each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cortex_core.fleet import Device, Fleet, Known, Neuron, Profile, Replica, Share, State
from cortex_gateway.policy.picture import Picture

CARD_MB = 24_000


def card(number: int = 0, memory_mb: int = CARD_MB, **fields: Any) -> Device:
    return Device(**{"id": f"cuda:{number}", "name": "Card", "kind": "cuda", "memory_mb": memory_mb, **fields})


def profile(model: str = "m1", vram_mb: int = 16_000, **fields: Any) -> Profile:
    return Profile(id=model, vram_mb=vram_mb, **fields)


def replica(model: str, vram_mb: int = 16_000, *, on: Iterable[int] = (0,), **fields: Any) -> Replica:
    """One that serves, idle for 100 s, two slots; its id is that of its model."""
    devices = tuple(Share(f"cuda:{number}", vram_mb) for number in on)
    values = {"state": State.READY, "version": 1, "digest": Profile(id=model).digest, "idle_s": 100.0, "load_s": 10.0}
    return Replica(**{"id": model, "model": model, "devices": devices, "max_in_flight": 2, **values, **fields})


def neuron(name: str = "n1", *replicas: Replica, **fields: Any) -> Neuron:
    values = {"up": True, "instance_id": f"{name}.1", "devices": (card(),), "simulated": True, **fields}
    values["known"] = {(entry.model, entry.digest): entry for entry in fields.get("known", ())}
    values["checkpoints"] = {entry.name: entry for entry in fields.get("checkpoints", ())}
    return Neuron(name=name, replicas=replicas, **values)


def known(model: str, uses: float, load_s: float = 10.0) -> Known:
    return Known(model=model, digest=Profile(id=model).digest, device_kind="cuda", load_s=load_s, uses=uses)


def picture(*neurons: Neuron, profiles: Iterable[Profile] = (), now: float = 0.0, **fields: Any) -> Picture:
    resident: dict[str, list[tuple[str, str]]] = {}
    for one in neurons:
        for entry in one.replicas:
            resident.setdefault(entry.model, []).append((one.name, entry.id))
    fleet = Fleet(
        neurons={one.name: one for one in neurons},
        profiles={p.id: p for p in (*profiles, *_missing(neurons, profiles))},
        resident={model: tuple(places) for model, places in resident.items()},
    )
    return Picture(fleet=fleet, now=now, **fields)


def _missing(neurons: Iterable[Neuron], profiles: Iterable[Profile]) -> list[Profile]:
    """Profiles of resident models that the test says nothing of."""
    said = {entry.id for entry in profiles}
    return [profile(r.model) for one in neurons for r in one.replicas if r.model not in said]

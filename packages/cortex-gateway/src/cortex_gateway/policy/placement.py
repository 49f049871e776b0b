"""Where a profile may go, best first, and for each neuron where it may not, why."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import groupby

from msgspec import Struct

from cortex_core.fleet import Device, Neuron, Profile, Replica, Share
from cortex_gateway.policy.eviction import is_pinned, may_leave, victims
from cortex_gateway.policy.picture import Picture


class DeviceView(Struct, frozen=True, kw_only=True):
    """One device as a decision saw it, in megabytes."""

    id: str
    memory_mb: int
    free_mb: int
    must_leave: tuple[str, ...] = ()  # models
    kept: tuple[tuple[str, str], ...] = ()  # (model, why it stays)


class Candidate(Struct, frozen=True, kw_only=True):
    """One neuron as a place for a profile: a way to do it, or why not."""

    neuron: str
    possible: bool  # with what is there: now, or once something is idle
    now: bool = False
    reason: str = ""
    need_mb: int = 0
    shares: tuple[Share, ...] = ()
    victims: tuple[Replica, ...] = ()
    devices: tuple[DeviceView, ...] = ()
    score: tuple[int, int, int, int] = (0, 0, 0, 0)  # lower is better: not pinned here, victims, -free, hash


def candidates(picture: Picture, profile: Profile) -> tuple[Candidate, ...]:
    """Every neuron's verdict, the best first."""
    verdicts = [_verdict(picture, profile, neuron) for neuron in picture.fleet.neurons.values()]
    return tuple(sorted(verdicts, key=lambda c: (not c.now, not c.possible, c.score, c.neuron)))


def rendezvous(model: str, neuron: str) -> int:
    """A tie-break on which all gateways agree (highest random weight: Thaler & Ravishankar 1998)."""
    return int.from_bytes(hashlib.blake2b(f"{model}\0{neuron}".encode(), digest_size=4).digest(), "big")


def _verdict(picture: Picture, profile: Profile, neuron: Neuron) -> Candidate:
    need_mb = picture.need_mb(profile, neuron)

    def no(reason: str, *, possible: bool = False, devices: tuple[DeviceView, ...] = ()) -> Candidate:
        return Candidate(neuron=neuron.name, possible=possible, reason=reason, need_mb=need_mb, devices=devices)

    if not neuron.instance_id:
        return no(neuron.problem or "not heard of yet", possible=True)
    checkpoint = neuron.checkpoint(profile)
    if checkpoint is None and not neuron.simulated:
        return no(f"no checkpoint {profile.source or profile.id!r} in its model folder")
    if checkpoint is not None and checkpoint.problem:
        return no(checkpoint.problem)
    share_mb = max(profile.min_device_vram_mb, -(-need_mb // profile.min_devices))
    groups = list(_like(neuron, profile))
    views = tuple(_view(picture, neuron, device, share_mb) for group in groups for device in group)
    if not _could_ever(picture, neuron, groups, share_mb, profile.min_devices):
        return no(_too_small(profile, groups, share_mb), devices=views)
    if not neuron.up:
        return no(neuron.problem or "down", possible=True, devices=views)
    if neuron.cordoned:
        return no("cordoned", possible=True, devices=views)
    paused_s = picture.paused.get((neuron.name, profile.id), 0.0) - picture.now
    if paused_s > 0:
        return no(f"refused lately, asked again in {paused_s:.1f} s", possible=True, devices=views)
    best = _best(picture, neuron, groups, share_mb, profile.min_devices)
    if best is None:
        return no("no room until something is idle", possible=True, devices=views)
    devices, leaving = best
    free_mb = min(neuron.free_mb(device) for device in devices)
    return Candidate(
        neuron=neuron.name,
        possible=True,
        now=True,
        reason="fits free" if not leaving else "fits after eviction",
        need_mb=need_mb,
        shares=tuple(Share(device.id, share_mb) for device in devices) if share_mb else (),
        victims=leaving,
        devices=views,
        score=(
            neuron.name not in profile.pinned_on,
            len(leaving),
            -free_mb,
            rendezvous(profile.id, neuron.name),
        ),
    )


def _like(neuron: Neuron, profile: Profile) -> Iterator[list[Device]]:
    """Groups of like devices, large enough for the profile: tensor parallel runs over equals only."""

    def kind(device: Device) -> tuple[str, str, int, str]:
        return (device.kind, device.name, device.memory_mb, device.compute_capability)

    fitting = [device for device in neuron.devices if device.memory_mb >= profile.min_device_vram_mb]
    for _, group in groupby(sorted(fitting, key=kind), key=kind):
        devices = list(group)
        if len(devices) >= profile.min_devices:
            yield devices


def _could_ever(picture: Picture, neuron: Neuron, groups: list[list[Device]], share_mb: int, min_devices: int) -> bool:
    """Whether it fits once everything that is not pinned has left."""

    def room_mb(device: Device) -> int:
        pinned = sum(r.memory_on(device.id) for r in neuron.replicas if is_pinned(picture, neuron, r))
        return device.memory_mb - pinned

    return any(sum(room_mb(device) >= share_mb for device in group) >= min_devices for group in groups)


def _best(
    picture: Picture, neuron: Neuron, groups: list[list[Device]], share_mb: int, min_devices: int
) -> tuple[list[Device], tuple[Replica, ...]] | None:
    """The devices that cost the fewest victims; the emptiest among equals."""
    busy, condemned = picture.busy_devices(neuron.name), picture.condemned()
    best: tuple[tuple[int, int], list[Device], tuple[Replica, ...]] | None = None
    leaveable = [r for r in neuron.replicas if not may_leave(picture, neuron, r, condemned)]
    for group in groups:
        plans = []
        for device in group:
            if device.id in busy:
                continue
            free_mb = neuron.free_mb(device)
            leaving = victims(picture, neuron, device, share_mb - free_mb, leaveable) if free_mb < share_mb else ()
            if leaving is not None:
                plans.append((len(leaving), -free_mb, device, leaving))
        plans.sort(key=lambda plan: (plan[0], plan[1], plan[2].id))
        if len(plans) < min_devices:
            continue
        chosen = plans[:min_devices]
        leaving = tuple({r.id: r for plan in chosen for r in plan[3]}.values())
        rank = (len(leaving), sum(plan[1] for plan in chosen))
        if best is None or rank < best[0]:
            best = (rank, [plan[2] for plan in chosen], leaving)
    return None if best is None else (best[1], best[2])


def _view(picture: Picture, neuron: Neuron, device: Device, share_mb: int) -> DeviceView:
    free_mb = neuron.free_mb(device)
    condemned = picture.condemned()
    here = [replica for replica in neuron.replicas if replica.memory_on(device.id)]
    stay = {replica.id: may_leave(picture, neuron, replica, condemned) for replica in here}
    leaving = victims(picture, neuron, device, share_mb - free_mb, [r for r in here if not stay[r.id]])
    return DeviceView(
        id=device.id,
        memory_mb=device.memory_mb,
        free_mb=free_mb,
        must_leave=tuple(replica.model for replica in leaving or ()),
        kept=tuple((replica.model, stay[replica.id]) for replica in here if stay[replica.id]),
    )


def _too_small(profile: Profile, groups: list[list[Device]], share_mb: int) -> str:
    if not groups:
        floor = f" of at least {profile.min_device_vram_mb} MB" if profile.min_device_vram_mb else ""
        return f"no {profile.min_devices} like devices{floor}"
    largest = max(device.memory_mb for group in groups for device in group)
    over = f" on each of {profile.min_devices} devices" if profile.min_devices > 1 else ""
    if largest >= share_mb:
        return f"needs {share_mb} MB{over}, and pinned replicas hold it"
    return f"needs {share_mb} MB{over}, the largest device has {largest} MB"

"""Where a profile may go, best first, and for each neuron where it may not, why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from operator import itemgetter

from msgspec import Struct

from cortex_core.fleet import Device, Neuron, Profile, Replica, Share, State
from cortex_core.gateway_api import Place, Room
from cortex_gateway.policy.affinity import weight
from cortex_gateway.policy.eviction import Leaver, choose, is_pinned, leaver, may_leave, together
from cortex_gateway.policy.picture import Picture
from cortex_gateway.policy.survey import DRAIN, EVICT, FREE, Rank

FITS = ("fits free", "fits when what is idle leaves", "fits when what has had its turn leaves")


class Candidate(Struct, frozen=True, kw_only=True):
    """One neuron as a place for a profile: a way to do it, or why not."""

    neuron: str
    possible: bool  # with what is there: now, or once something is idle
    now: bool = False
    tier: int = FREE
    reason: str = ""
    need_mb: int = 0
    shares: tuple[Share, ...] = ()
    victims: tuple[Replica, ...] = ()
    devices: tuple[Room, ...] = ()
    wakes: bool = False  # its replica there sleeps, and a load wakes it
    rank: Rank = (True, True, DRAIN, 0.0, 0, 0)
    tie: int = 0  # between equals: a hash that all gateways share

    def place(self) -> Place:
        """As people are told of it."""
        return Place(
            neuron=self.neuron,
            possible=self.possible,
            now=self.now,
            reason=self.reason,
            need_mb=self.need_mb,
            devices=self.devices,
            must_leave=tuple(replica.model for replica in self.victims),
            price=self.rank[3],
        )


class _Plan(Struct, frozen=True):
    """How one device could hold its share."""

    tier: int
    price: float
    device: Device
    free_mb: int
    leaving: tuple[Leaver, ...]

    @property
    def rank(self) -> tuple[int, float, int, int, str]:
        return (self.tier, self.price, len(self.leaving), -self.free_mb, self.device.id)


def candidates(picture: Picture, profile: Profile) -> tuple[Candidate, ...]:
    """Every neuron's verdict, the best first, in full: for people. A decision takes `first`."""
    verdicts = [_verdict(picture, profile, neuron, DRAIN) for neuron in picture.fleet.neurons.values()]
    return tuple(sorted(verdicts, key=lambda c: (not c.now, not c.possible, c.rank, c.tie, c.neuron)))


def first(picture: Picture, profile: Profile, neurons: Iterable[Neuron], *, most: int = DRAIN) -> tuple[Candidate, ...]:
    """The place to take now, and behind it what else was looked at; empty: there is none within the tier `most`.

    The same as the first of `candidates`. In order of what each neuron could be at best, only until none can be better.
    """
    bounds: list[tuple[Rank, Neuron]] = []
    sleepers = {neuron.name: replica for neuron, replica in picture.replicas(profile.id) if _sleeps(replica)}
    for neuron in neurons:
        if not neuron.up or _is_missing(profile, neuron) or _hindrance(picture, profile, neuron):
            continue
        sleeper = sleepers.get(neuron.name)
        own_mb = max((share.memory_mb for share in sleeper.devices), default=0) if sleeper else 0
        least = picture.surveys.of(picture, neuron).bound(_share_mb(picture, profile, neuron) - own_mb, most)
        if least is not None:
            bounds.append(((neuron.name not in profile.pinned_on, sleeper is None, *least), neuron))
    bounds.sort(key=itemgetter(0))
    looked: list[Candidate] = []
    for rank, alike in groupby(bounds, key=itemgetter(0)):
        if looked and looked[0].rank < rank:
            break
        for neuron in sorted((n for _, n in alike), key=lambda n: _tie(profile.id, n.name)):
            verdict = _verdict(picture, profile, neuron, most)
            if verdict.now:
                looked.append(verdict)
                if verdict.rank == rank:
                    break  # as good as it could be, and before its equals
        looked.sort(key=lambda c: (c.rank, c.tie))
    return tuple(looked)


def _sleeps(replica: Replica) -> bool:
    return replica.state is State.SLEEPING


@lru_cache(maxsize=1 << 16)
def _tie(model: str, neuron: str) -> int:
    return weight(model, neuron)


def could_hold(picture: Picture, profile: Profile, neuron: Neuron) -> bool:
    """Whether it fits there now, or once what is not pinned has left. One that was never heard of might."""
    if not neuron.instance_id:
        return True
    share_mb = _share_mb(picture, profile, neuron)
    groups = list(_like(neuron, profile))
    return not _is_missing(profile, neuron) and _could_ever(picture, neuron, groups, share_mb, profile.min_devices)


def _is_missing(profile: Profile, neuron: Neuron) -> str:
    """Why its checkpoint cannot be served there, for people; empty: it can."""
    checkpoint = neuron.checkpoint(profile)
    if checkpoint is None:
        return "" if neuron.simulated else f"no checkpoint {profile.source or profile.id!r} in its model folder"
    return checkpoint.problem


def _share_mb(picture: Picture, profile: Profile, neuron: Neuron) -> int:
    need_mb = profile.vram_mb or picture.need_mb(profile, neuron)
    return max(profile.min_device_vram_mb, -(-need_mb // profile.min_devices))


def _verdict(picture: Picture, profile: Profile, neuron: Neuron, most: int) -> Candidate:
    need_mb, share_mb = picture.need_mb(profile, neuron), _share_mb(picture, profile, neuron)

    def no(reason: str, *, possible: bool) -> Candidate:
        devices = tuple(_view(picture, neuron, device, share_mb, profile) for device in neuron.devices)
        return Candidate(neuron=neuron.name, possible=possible, reason=reason, need_mb=need_mb, devices=devices)

    if not neuron.instance_id:
        return no(neuron.problem or "not heard of yet", possible=True)
    if missing := _is_missing(profile, neuron):
        return no(missing, possible=False)
    groups = list(_like(neuron, profile))
    if not _could_ever(picture, neuron, groups, share_mb, profile.min_devices):
        return no(_too_small(profile, groups, share_mb), possible=False)
    if hindrance := _hindrance(picture, profile, neuron):
        return no(hindrance, possible=True)
    plans = _awake(picture, profile, neuron, share_mb, most)
    wakes = plans is not None
    plans = plans or _best(picture, profile, neuron, groups, share_mb, most)
    if plans is None:
        return no("no room until something is idle", possible=True)
    victims = tuple({entry.replica.id: entry.replica for plan in plans for entry in plan.leaving}.values())
    tier, free_mb = max(plan.tier for plan in plans), min(plan.free_mb for plan in plans)
    dear = _price(picture, neuron, plans)
    elsewhere = neuron.name not in profile.pinned_on
    return Candidate(
        neuron=neuron.name,
        possible=True,
        now=True,
        tier=tier,
        reason=("asleep there, " if wakes else "") + FITS[tier],
        need_mb=need_mb,
        shares=tuple(Share(plan.device.id, share_mb) for plan in plans) if share_mb else (),
        victims=victims,
        wakes=wakes,
        rank=(elsewhere, not wakes, tier, dear, len(victims), -free_mb),
        tie=_tie(profile.id, neuron.name),
    )


def _hindrance(picture: Picture, profile: Profile, neuron: Neuron) -> str:
    """Why a neuron that could hold it will not take it now."""
    if not neuron.up:
        return neuron.problem or "down"
    if neuron.cordoned:
        return "cordoned"
    failed = picture.failure(profile, neuron) if neuron.failures else None
    if failed is not None:
        return f"failed here ({failed[0].code}), tried again in {failed[1]:.0f} s"
    if picture.paused and (paused_s := picture.paused.get((neuron.name, profile.id), 0.0) - picture.now) > 0:
        return f"refused lately, asked again in {paused_s:.1f} s"
    return ""


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
    picture: Picture, profile: Profile, neuron: Neuron, groups: list[list[Device]], share_mb: int, most: int
) -> Sequence[_Plan] | None:
    """The cheapest devices of one group, as many as the profile wants."""
    seen = picture.surveys.of(picture, neuron)

    def rank(plans: list[_Plan]) -> tuple[int, float, int]:
        return (max(p.tier for p in plans), _price(picture, neuron, plans), -min(p.free_mb for p in plans))

    best: list[_Plan] | None = None
    for group in groups:
        found = (
            _plan(picture, profile, neuron, device, share_mb, most) for device in group if device.id in seen.free_mb
        )
        plans = sorted((plan for plan in found if plan), key=lambda plan: plan.rank)[: profile.min_devices]
        if len(plans) == profile.min_devices and (best is None or rank(plans) < rank(best)):
            best = plans
    return best


def _awake(picture: Picture, profile: Profile, neuron: Neuron, share_mb: int, most: int) -> Sequence[_Plan] | None:
    """How a replica that sleeps there has its own memory again; None: none sleeps, or it cannot."""
    sleeper = next((r for r in neuron.replicas if r.model == profile.id and _sleeps(r)), None)
    if sleeper is None:
        return None
    seen = picture.surveys.of(picture, neuron)
    own = {share.id: share.memory_mb for share in sleeper.devices}
    found = [
        _plan(picture, profile, neuron, device, share_mb - own[device.id], most, besides=sleeper.id)
        for device in neuron.devices
        if device.id in own and device.id in seen.free_mb
    ]
    plans = [plan for plan in found if plan]
    return plans if len(plans) == profile.min_devices == len(own) else None


def _price(picture: Picture, neuron: Neuron, plans: Iterable[_Plan]) -> float:
    prices = picture.surveys.of(picture, neuron).prices
    return together(picture.strategy, [prices[entry.replica.id] for plan in plans for entry in plan.leaving])


def _plan(
    picture: Picture, profile: Profile, neuron: Neuron, device: Device, share_mb: int, most: int, *, besides: str = ""
) -> _Plan | None:
    """The cheapest way to that much memory; the replica `besides` does not leave for it."""
    seen = picture.surveys.of(picture, neuron)
    free_mb = seen.free_mb[device.id]
    if free_mb >= share_mb:
        return _Plan(FREE, 0.0, device, free_mb, ())
    for tier, places in ((EVICT, seen.idle), (DRAIN, seen.turned))[:most]:
        here = (neuron.replicas[place] for place in places)
        leavers = [leaver(picture, neuron, device, replica) for replica in here if replica.id != besides]
        leaving = choose(picture.strategy, leavers, share_mb - free_mb, profile)
        if leaving is not None:
            dear = together(picture.strategy, [seen.prices[entry.replica.id] for entry in leaving])
            return _Plan(tier, dear, device, free_mb, leaving)
    return None


def _view(picture: Picture, neuron: Neuron, device: Device, share_mb: int, profile: Profile) -> Room:
    free_mb = neuron.free_mb(device)
    here = [replica for replica in neuron.replicas if replica.memory_on(device.id)]
    stay = {replica.id: may_leave(picture, neuron, replica) for replica in here}
    leavers = [leaver(picture, neuron, device, replica) for replica in here if not stay[replica.id]]
    leaving = choose(picture.strategy, leavers, share_mb - free_mb, profile) if free_mb < share_mb else ()
    return Room(
        id=device.id,
        memory_mb=device.memory_mb,
        free_mb=free_mb,
        must_leave=tuple(entry.replica.model for entry in leaving or ()),
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

"""What a neuron's devices hold and who could leave them: worked out once for all models that look for a place."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from math import inf
from typing import TYPE_CHECKING

from cortex_core.fleet import HOLDS_MEMORY, Neuron
from cortex_gateway.policy.eviction import ITS_TURN, Strategy, must_stay, price

if TYPE_CHECKING:
    from cortex_gateway.policy.picture import Picture

FREE, EVICT, DRAIN = range(3)
"""How dear a place is: nothing leaves, what is idle leaves, what is busy leaves once its requests have ended."""

USED_S = 0.5
"""By age: when something was used is told by how long ago that was; what differs by less was not used in between."""
STALE_MOST = 40
CATCH_UP = 2
"""So many surveys may be void at once, for a plan to make anew; whoever makes one more void makes two of them anew."""

Rank = tuple[bool, bool, int, float, int, int]
"""Less is better: elsewhere than pinned, not asleep there, tier, price of those who leave, victims, -free MB."""


class Survey:
    """One neuron, whatever the model.

    Attributes:
        free_mb: of each device on which nothing moves.
        idle: places in its list of the replicas that may be let go at once; `turned`: of those, and of the busy ones
            that have had their turn.
        most_mb: the most that one device has or can have free, by tier.
        least: by tier, the least price (`eviction.price`) of one of those who would leave.
        prices: of those who would leave, by their ids.
        until: when the next turn ends by time alone.
    """

    __slots__ = ("free_mb", "idle", "least", "most_mb", "prices", "turned", "until")

    def __init__(self, picture: Picture, neuron: Neuron) -> None:
        free = {device.id: device.memory_mb - device.used_by_others_mb for device in neuron.devices}
        idle_mb, turned_mb = dict.fromkeys(free, 0), dict.fromkeys(free, 0)
        idle = turned = until = inf
        self.idle: list[int] = []
        self.turned: list[int] = []
        self.prices: dict[str, float] = {}
        for place, replica in enumerate(neuron.replicas):
            stays = must_stay(picture, neuron, replica)
            is_idle = not stays and picture.is_idle(neuron, replica)
            if replica.state in HOLDS_MEMORY:
                for share in replica.devices:
                    device, mb = share.id, share.memory_mb
                    if device in free:
                        free[device] -= mb
                        if not stays:
                            turned_mb[device] += mb
                            if is_idle:
                                idle_mb[device] += mb
            if not stays:
                dear = self.prices[replica.id] = price(picture, neuron, replica)
                self.turned.append(place)
                turned = min(turned, dear)
                if is_idle:
                    self.idle.append(place)
                    idle = min(idle, dear)
            elif stays is ITS_TURN:
                until = min(until, neuron.at + replica.evictable_in_s)
        for device in picture.busy_devices(neuron.name):
            free.pop(device, None)
        most_free = most_idle = most_turned = -1
        for device, mb in free.items():
            most_free = max(most_free, mb)
            most_idle = max(most_idle, mb + idle_mb[device])
            most_turned = max(most_turned, mb + turned_mb[device])
        self.free_mb, self.until = free, until
        self.least = (0.0, idle, turned)
        self.most_mb = (most_free, most_idle, most_turned)

    def bound(self, share_mb: int, most: int) -> tuple[int, float, int, int] | None:
        """Tier, price, victims and -free MB of the best that the neuron could be, or None: not within the tier `most`.

        Exact for one device and one victim, and never too dear: who ranks behind it need not be looked at.
        """
        most_mb = self.most_mb
        if most_mb[FREE] >= share_mb:
            return (FREE, 0.0, 0, -most_mb[FREE])
        for tier in range(EVICT, most + 1):
            if most_mb[tier] >= share_mb:
                return (tier, self.least[tier], 1, -most_mb[FREE])
        return None


class Surveys:
    """Those of many neurons, kept over decisions until something about a neuron changes: whoever changes it says so."""

    __slots__ = ("_by_age", "_kept", "_stale")

    def __init__(self, strategy: Strategy = "cost") -> None:
        self._by_age = strategy != "cost"
        self._kept: dict[str, Survey] = {}
        self._stale: dict[str, None] = {}  # neurons whose survey is void, the first to become so first

    def of(self, picture: Picture, neuron: Neuron) -> Survey:
        found = self._kept.get(neuron.name)
        if found is None or picture.now >= found.until:
            found = self._kept[neuron.name] = Survey(picture, neuron)
            self._stale.pop(neuron.name, None)
        return found

    def forget(self, neuron: str) -> None:
        """A lease, a swap or its state changed. `catch_up` follows."""
        self._kept.pop(neuron, None)
        self._stale[neuron] = None

    @property
    def stale(self) -> int:
        """How many a plan would make anew."""
        return len(self._stale)

    def catch_up(self, picture: Callable[[], Picture]) -> None:
        """Nobody may have needed them for hours: then the first plan would be as slow as the fleet is large."""
        if self.stale > STALE_MOST:
            now = picture()
            for name in tuple(islice(self._stale, CATCH_UP)):
                self.of(now, now.fleet.neurons[name])

    def forget_all(self) -> None:
        """What holds for every neuron changed: the catalogue. Reading it took longer than making them all anew will."""
        self._stale.update(dict.fromkeys(self._kept))
        self._kept.clear()

    def heard(self, before: Neuron, after: Neuron) -> bool:
        """It told of itself. Whether that changes what could be decided: most of what comes every second does not."""
        if not _are_alike(before, after) or (self._by_age and _was_used(before, after)):
            self.forget(after.name)
            return True
        if after.name in self._kept:
            turns = (after.at + replica.evictable_in_s for replica in after.replicas if replica.evictable_in_s)
            self._kept[after.name].until = min(turns, default=inf)
        return False

    def without(self, neurons: Iterable[str]) -> Surveys:
        """For a picture in which these are different."""
        others = Surveys()
        others._by_age = self._by_age
        others._kept = self._kept.copy()
        for name in neurons:
            others._kept.pop(name, None)
        return others


def _are_alike(before: Neuron, after: Neuron) -> bool:
    """Whether a survey of the one is one of the other."""
    if before.known is not after.known or before.pins is not after.pins or len(before.replicas) != len(after.replicas):
        return False
    if before.devices is not after.devices and _memory(before) != _memory(after):
        return False
    passed_s = max(0.0, after.at - before.at)
    return all(
        one.version == other.version
        and one.id == other.id
        and (one.in_flight + one.queue > 0) == (other.in_flight + other.queue > 0)
        and (one.evictable_in_s > passed_s) == (other.evictable_in_s > 0)
        and (one.evictable_in_s > 0) == (other.evictable_in_s > 0)
        for one, other in zip(before.replicas, after.replicas, strict=True)
    )


def _was_used(before: Neuron, after: Neuron) -> bool:
    """Whether an idle replica of the same list was, by whom ever, since the report before."""
    passed_s = max(0.0, after.at - before.at)
    return any(
        other.idle_s < one.idle_s + passed_s - USED_S
        for one, other in zip(before.replicas, after.replicas, strict=True)
        if not (other.in_flight or other.queue)
    )


def _memory(neuron: Neuron) -> list[tuple[str, int, int]]:
    return [(device.id, device.memory_mb, device.used_by_others_mb) for device in neuron.devices]

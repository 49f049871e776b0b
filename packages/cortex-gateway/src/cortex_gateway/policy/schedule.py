"""Who is served, who joins a load under way, which swap starts, who is refused: `schedule(picture, backlogs)`.

Everything that can be served is served first, over all models; only then is a swap planned. Waiter by waiter, the
first would evict what the second could use now.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct, structs

from cortex_core.fleet import Neuron, Profile, Replica, Share
from cortex_gateway.policy import turns
from cortex_gateway.policy.affinity import Seat, seat_for
from cortex_gateway.policy.breaker import state
from cortex_gateway.policy.picture import Intent, Key, Picture
from cortex_gateway.policy.placement import Candidate, candidates, could_hold, first
from cortex_gateway.policy.recovery import COMING
from cortex_gateway.policy.refuse import Refuse, cannot_fit
from cortex_gateway.policy.survey import DRAIN, EVICT, FREE

NEURON_PATIENCE_S = 30.0
"""How long a request is held while no neuron that could serve it is up: longer than a daemon's restart takes."""
THEIR_OWN_S = 3.0
"""What waits at another gateway is left to that one for so long."""
TELL_ALL = 16
"""Neurons of whose every verdict a swap's record tells; of a larger fleet it tells of those that could be the best."""
OUTLIER, OUTLIER_LEAST_S = 3.0, 0.25
"""A replica so many times, and by so much, slower to its first token than its fastest sibling is passed over."""


class Backlog(Struct, frozen=True, kw_only=True):
    """What waits for one model at this gateway."""

    model: str
    waiters: int
    tickets: int = 0  # told to come again, and expected back
    oldest: float  # arrival, monotonic; of a ticket: its first
    priority: int = 5


class Serve(Struct, frozen=True, kw_only=True):
    """Give the next `count` waiters of the model a lease each."""

    model: str
    count: int


class Swap(Struct, frozen=True, kw_only=True):
    """Load the model there, letting the victims go."""

    model: str
    candidate: Candidate
    reason: str = "waiters"
    considered: tuple[Candidate, ...] = ()  # the places it was chosen among, and why not those that it was not


Action = Serve | Swap | Refuse


def pick(picture: Picture, model: str, key: str = "") -> tuple[Neuron, Replica] | None:
    """The replica that one new request of the model goes to now: where its session was, else the least loaded."""
    ready = [(n, r) for n, r in picture.ready(model) if picture.room(n, r) > 0]
    if not ready:
        return None
    if len(ready) == 1:
        return ready[0]
    keys = [(neuron.name, replica.id) for neuron, replica in ready]
    fastest = min((picture.pace_s[k] for k in keys if k in picture.pace_s), default=0.0)
    seats = [
        Seat(
            name=f"{neuron.name}/{replica.model}",
            held=max(picture.leases.get(k, 0), replica.in_flight),
            slots=replica.max_in_flight,
            demoted=state(picture.breakers.get(k), picture.now) in {"open", "probing"}
            or (fastest > 0 and picture.pace_s.get(k, 0.0) > max(OUTLIER * fastest, fastest + OUTLIER_LEAST_S)),
        )
        for k, (neuron, replica) in zip(keys, ready, strict=True)
    ]
    return ready[seat_for(key, seats)]


def schedule(picture: Picture, backlogs: Sequence[Backlog], *, places: bool = True) -> list[Action]:
    """All that can be decided now, or only who is served. Applying it and hearing of its results leads to the next."""
    actions: list[Action] = []
    leases = dict(picture.leases)
    left: list[Backlog] = []
    for backlog in backlogs:
        count = _given(picture, backlog, leases)
        if count:
            actions.append(Serve(model=backlog.model, count=count))
        left.append(structs.replace(backlog, waiters=backlog.waiters - count))
    if not places:
        return actions
    if actions:
        taken = {neuron for neuron, replica in leases if not picture.leases.get((neuron, replica))}
        picture = structs.replace(picture, leases=leases, surveys=picture.surveys.without(taken))
    homeless: list[Backlog] = []
    for backlog in left:
        if not _has_home(picture, backlog.model):
            homeless.append(backlog)
        elif backlog.waiters and (swap := _another(picture, backlog)):
            actions.append(swap)
            picture = with_intent(picture, swap)
    return actions + _homes(picture, homeless)


def _homes(picture: Picture, homeless: list[Backlog]) -> list[Action]:
    """In turn, as far as there is a place: what waits here, and what waits elsewhere and comes before some of that."""
    actions: list[Action] = []
    for backlog in in_turn(picture, [*homeless, *_elsewhere(picture, homeless)]):
        if not homeless:
            break  # those behind ours are left to their own gateways
        action = place(picture, backlog)
        if backlog in homeless:
            homeless.remove(backlog)
        elif not isinstance(action, Swap):
            continue
        if action is not None:
            actions.append(action)
        if isinstance(action, Swap):
            picture = with_intent(picture, action)
    return actions


def _elsewhere(picture: Picture, homeless: Sequence[Backlog]) -> list[Backlog]:
    """What has no home and waits at other gateways only: when its turn comes before one of ours, we load it. Else the
    gateway that hears first of each turn's end would give every turn to its own models."""
    if not homeless:
        return []
    ours = {backlog.model for backlog in homeless}
    return [
        Backlog(model=model, waiters=0, tickets=1, oldest=oldest)
        for model, oldest in picture.elsewhere.items()
        if model not in ours and picture.now - oldest > THEIR_OWN_S and not _has_home(picture, model)
    ]


def _given(picture: Picture, backlog: Backlog, leases: dict[Key, int]) -> int:
    """How many waiters get a lease now. `leases` is given them, so that no swap takes their replicas for idle."""
    left = backlog.waiters
    for neuron, replica in picture.ready(backlog.model) if left else ():
        count = min(left, picture.room(neuron, replica))
        if count:
            key = (neuron.name, replica.id)
            leases[key] = leases.get(key, 0) + count
            left -= count
    return backlog.waiters - left


def in_turn(picture: Picture, backlogs: Iterable[Backlog]) -> list[Backlog]:
    """Whose turn is next: who has waited too long, then by priority, then who came first, at any gateway."""
    waiting = list(backlogs)
    if len(waiting) < 2:
        return waiting
    oldest = {b.model: min(b.oldest, picture.elsewhere.get(b.model, b.oldest)) for b in waiting}
    overdue_s = turns.overdue_s([0.0] * len(waiting))
    if picture.now - min(oldest.values()) > overdue_s:  # else whatever the loads take
        overdue_s = turns.overdue_s([_load_s(picture, backlog.model) for backlog in waiting])

    def rank(backlog: Backlog) -> tuple[bool, int, float]:
        since = oldest[backlog.model]
        overdue = picture.now - since > overdue_s
        return (not overdue, 0 if overdue else -backlog.priority, since)

    return sorted(waiting, key=rank)


def place(picture: Picture, backlog: Backlog) -> Swap | Refuse | None:
    """The swap that makes a home for a model that has none, why there never will be one, or None: not yet."""
    profile = picture.fleet.profiles.get(backlog.model)
    if profile is None:
        return Refuse(model=backlog.model, kind="model_not_found", message=f"model: {backlog.model}")
    failed = picture.failures(profile)
    if any(failure.scope == "model" for _, failure, _ in failed) or len(failed) > 1:
        _, failure, wait_s = max(failed, key=lambda entry: entry[2])
        message = f"{backlog.model} failed to load: {failure.message or failure.code}"
        return Refuse(model=backlog.model, kind="load_failed", message=message, retry_after_s=wait_s)
    neurons = picture.fleet.neurons.values()
    late = {neuron.name for neuron, replica in picture.replicas(profile.id) if replica.state in COMING}
    most = FREE if late else EVICT if failed else DRAIN
    looked = first(picture, profile, (n for n in neurons if n.name not in late) if late else neurons, most=most)
    if looked:
        considered = candidates(picture, profile) if len(neurons) <= TELL_ALL else looked
        return Swap(model=backlog.model, candidate=looked[0], considered=considered)
    if any(neuron.up and could_hold(picture, profile, neuron) for neuron in neurons):
        return None
    if not any(could_hold(picture, profile, neuron) for neuron in neurons):
        return cannot_fit(backlog.model, candidates(picture, profile))
    if picture.now - backlog.oldest >= NEURON_PATIENCE_S:
        message = f"no neuron that could serve {backlog.model} is up"
        return Refuse(model=backlog.model, kind="no_neuron", message=message)
    return None


def _another(picture: Picture, backlog: Backlog) -> Swap | None:
    """A further replica on memory that is free, when waiting would take longer than loading it."""
    profile = picture.fleet.profiles.get(backlog.model)
    ready = picture.ready(backlog.model)
    if profile is None or len(ready) >= profile.replicas.max or picture.is_under_way(backlog.model):
        return None
    slots = sum(replica.max_in_flight or 1 for _, replica in ready)
    wait_s = backlog.waiters * picture.held_s.get(backlog.model, 0.0) / max(1, slots)
    if wait_s <= _load_s(picture, backlog.model):
        return None
    taken = {neuron.name for neuron, _ in ready}
    free = first(picture, profile, (n for n in picture.fleet.neurons.values() if n.name not in taken), most=FREE)
    return Swap(model=backlog.model, candidate=free[0], reason="another replica", considered=free) if free else None


def _load_s(picture: Picture, model: str) -> float:
    """The longest that a load of it took anywhere."""
    profile = picture.fleet.profiles.get(model)
    if profile is None:
        return 0.0
    neurons = picture.fleet.neurons.values()
    return max((turns.load_s(n, profile, picture.need_mb(profile, n)) for n in neurons if n.up), default=0.0)


def _has_home(picture: Picture, model: str) -> bool:
    """Whether it is there, full perhaps, or on its way: then its waiters wait."""
    if picture.is_under_way(model):
        return True
    return bool(picture.ready(model))


def intend(picture: Picture, swap: Swap, operation_id: str) -> Intent:
    """A swap as something decided. Where the neuron itself will fit it, it may touch every device there."""
    candidate = swap.candidate
    every = tuple(Share(device.id, 0) for device in picture.fleet.neurons[candidate.neuron].devices)
    return Intent(
        operation_id=operation_id,
        model=swap.model,
        neuron=candidate.neuron,
        devices=candidate.shares or every,
        victims=tuple(replica.id for replica in candidate.victims),
        since=picture.now,
    )


def with_intent(picture: Picture, swap: Swap) -> Picture:
    """The picture with the swap already decided, so that the next plan respects it."""
    intent = intend(picture, swap, f"planned {swap.model}")
    intents = {**picture.intents, intent.operation_id: intent}
    return structs.replace(picture, intents=intents, surveys=picture.surveys.without([intent.neuron]))


def hosts(picture: Picture, profile: Profile) -> list[str]:
    """Neurons that could hold the model: those to tell of its waiters."""
    neurons = picture.fleet.neurons.values()
    return [n.name for n in neurons if n.up and (n.simulated or n.checkpoint(profile) is not None)]

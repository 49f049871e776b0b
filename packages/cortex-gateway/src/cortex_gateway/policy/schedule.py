"""Who is served, who joins a load under way, which swap starts, who is refused: `schedule(picture, demands)`.

Everything that can be served is served first, over all models; only then is a swap planned. Waiter by waiter, the
first would evict what the second could use now.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct, structs, to_builtins

from cortex_core.fleet import Failure, Neuron, Replica, Share, State
from cortex_gateway.policy.picture import Intent, Picture
from cortex_gateway.policy.placement import Candidate, candidates, rendezvous


class Demand(Struct, frozen=True, kw_only=True):
    """What waits for one model."""

    model: str
    waiters: int
    oldest: float  # arrival, monotonic
    priority: int = 5


class Serve(Struct, frozen=True, kw_only=True):
    """Give the next `count` waiters a lease on this replica."""

    model: str
    neuron: str
    replica: str
    count: int


class Swap(Struct, frozen=True, kw_only=True):
    """Load the model there, letting the victims go."""

    model: str
    candidate: Candidate
    considered: tuple[Candidate, ...] = ()


class Refuse(Struct, frozen=True, kw_only=True):
    """Tell every waiter of the model why it cannot be served."""

    model: str
    kind: str  # of cortex_core.errors
    message: str
    retry_after_s: float | None = None
    details: Mapping[str, Any] = {}


Action = Serve | Swap | Refuse

NEURON_PATIENCE_S = 30.0
"""How long a request is held while no neuron that could serve it is up: longer than a daemon's restart takes."""
UNBOUNDED = 1 << 30


def room(picture: Picture, neuron: Neuron, replica: Replica) -> int:
    """How many more leases this gateway may hold on it."""
    key = (neuron.name, replica.id)
    if picture.paused.get(key, 0.0) > picture.now:
        return 0
    return max(0, replica.max_in_flight - picture.leases.get(key, 0)) if replica.max_in_flight else UNBOUNDED


def pick(picture: Picture, model: str) -> tuple[Neuron, Replica] | None:
    """The replica that a new request of the model goes to now: the least loaded with room."""
    best: tuple[tuple[float, int], Neuron, Replica] | None = None
    condemned = picture.condemned() if picture.intents else ()
    for neuron, replica in picture.replicas(model):
        if replica.state is not State.READY or neuron.cordoned or (neuron.name, replica.id) in condemned:
            continue
        if not room(picture, neuron, replica):
            continue
        held = picture.leases.get((neuron.name, replica.id), 0)
        load = max(held, replica.in_flight) / (replica.max_in_flight or 1)
        rank = (load, rendezvous(model, neuron.name))
        if best is None or rank < best[0]:
            best = (rank, neuron, replica)
    return None if best is None else (best[1], best[2])


def schedule(picture: Picture, demands: Iterable[Demand]) -> list[Action]:
    """All that can be decided now. Applying it and hearing of its results leads to the next call."""
    actions: list[Action] = []
    unserved: list[Demand] = []
    for demand in demands:
        served = list(_serve(picture, demand))
        actions += served
        if not served and not _has_home(picture, demand.model):
            unserved.append(demand)
    for demand in sorted(unserved, key=lambda d: (-d.priority, d.oldest)):
        action = _place(picture, demand)
        if action is None:
            continue
        actions.append(action)
        if isinstance(action, Swap):
            picture = _with_intent(picture, action)
    return actions


def _serve(picture: Picture, demand: Demand) -> Iterable[Serve]:
    """Leases for as many as there is room for, spread over the replicas by load."""
    condemned = picture.condemned()
    open_to = [
        (neuron, replica, room(picture, neuron, replica))
        for neuron, replica in picture.replicas(demand.model)
        if replica.state is State.READY and not neuron.cordoned and (neuron.name, replica.id) not in condemned
    ]
    left = demand.waiters
    share = -(-left // max(1, len(open_to)))
    for neuron, replica, free in sorted(open_to, key=lambda entry: -entry[2]):
        count = min(left, share, free)
        if count > 0:
            left -= count
            yield Serve(model=demand.model, neuron=neuron.name, replica=replica.id, count=count)


def _has_home(picture: Picture, model: str) -> bool:
    """Whether it is there, full perhaps, or on its way: then its waiters wait."""
    condemned = picture.condemned()
    if picture.is_under_way(model):
        return True
    return any(
        replica.state in {State.READY, State.DRAINING} and (neuron.name, replica.id) not in condemned
        for neuron, replica in picture.replicas(model)
    )


def _place(picture: Picture, demand: Demand) -> Action | None:
    profile = picture.fleet.profiles.get(demand.model)
    if profile is None:
        return Refuse(model=demand.model, kind="model_not_found", message=f"model: {demand.model}")
    failure, wait_s = _failure(picture, demand.model, profile.digest)
    if failure is not None:
        message = f"{demand.model} failed to load: {failure.message or failure.code}"
        return Refuse(model=demand.model, kind="load_failed", message=message, retry_after_s=wait_s)
    considered = candidates(picture, profile)
    if considered and considered[0].now:
        return Swap(model=demand.model, candidate=considered[0], considered=considered)
    possible = [picture.fleet.neurons[c.neuron] for c in considered if c.possible]
    if not possible:
        return cannot_fit(demand.model, considered)
    if not any(neuron.up for neuron in possible) and picture.now - demand.oldest >= NEURON_PATIENCE_S:
        message = f"no neuron that could serve {demand.model} is up"
        return Refuse(model=demand.model, kind="no_neuron", message=message)
    return None


def cannot_fit(model: str, considered: tuple[Candidate, ...]) -> Refuse:
    """The final no, with the numbers."""
    if not considered:
        return Refuse(model=model, kind="no_neuron", message="no neuron is configured")
    reasons = "; ".join(f"{c.neuron}: {c.reason}" for c in considered)
    details = {
        "need_mb": max(c.need_mb for c in considered),
        "neurons": [
            {"neuron": c.neuron, "reason": c.reason, "need_mb": c.need_mb, "devices": to_builtins(c.devices)}
            for c in considered
        ],
    }
    return Refuse(model=model, kind="model_cannot_fit", message=f"{model} cannot fit: {reasons}", details=details)


def _failure(picture: Picture, model: str, digest: str) -> tuple[Failure | None, float]:
    """A recorded failure that forbids every neuron to try, and for how long."""
    for neuron in picture.fleet.neurons.values():
        for failure in neuron.failures:
            wait_s = failure.retry_in_s - (picture.now - neuron.at)
            if failure.model == model and failure.digest == digest and failure.scope == "model" and wait_s > 0:
                return failure, wait_s
    return None, 0.0


def _with_intent(picture: Picture, swap: Swap) -> Picture:
    """The picture with the swap already decided, so that the next model's plan respects it."""
    intent = intend(picture, swap, f"planned {swap.model}")
    return structs.replace(picture, intents={**picture.intents, intent.operation_id: intent})


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

"""What a decision costs, in processor time: a lease where there is room, one out of a queue, and a swap's plan.

The production dispatcher, on fleets of 3 to 300 neurons with two cards and four resident models each, and 1,000
profiles. A plan is measured with what the dispatcher keeps of each neuron, and after a busy hour without a plan.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from msgspec import structs

from cortex_core.fleet import Checkpoint, Device, Fleet, Known, Neuron, Profile, Replica, Share, State
from cortex_core.neuron_api import DemandRequest, LoadRequest, Operation, UnloadRequest
from cortex_gateway.dispatch.dispatcher import Dispatcher, Rules, Want
from cortex_gateway.policy.picture import Picture
from cortex_gateway.policy.schedule import Backlog, place
from cortex_gateway.policy.survey import Surveys
from tools.bench.cores import machine

PROFILES, CARDS, ON_A_CARD = 1000, 2, 2
CARD_MB, MODEL_MB = 24_000, 10_000
SIZES = (3, 30, 300)
WAITERS = 1000
M1_ON = 3
FRESH = 5  # plans


@dataclass(frozen=True, slots=True)
class Plan:
    rounds: int = 5


@dataclass(frozen=True, slots=True)
class Costs:
    """Microseconds, each the least of its rounds."""

    neurons: int
    serve_us: float
    queued_us: float
    plan_us: float
    fresh_plan_us: float
    lru_plan_us: float


class Nowhere:
    """Commands that nobody carries out."""

    async def load(self, _neuron: str, _request: LoadRequest) -> Operation:
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

    async def unload(self, _neuron: str, _request: UnloadRequest) -> Operation:
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

    async def demand(self, _neuron: str, _request: DemandRequest) -> None:
        pass


def fleet_of(neurons: int, profiles: int = PROFILES) -> Fleet:
    """Every card is full; `m1` is on three neurons, however many there are, and the last model nowhere."""
    known_profiles = {f"m{number}": Profile(id=f"m{number}", vram_mb=MODEL_MB) for number in range(profiles)}
    names = list(known_profiles)
    folders = {name: Checkpoint(name=name, need_mb=MODEL_MB) for name in names}
    learned = {
        (name, profile.digest): Known(
            model=name, digest=profile.digest, device_kind="cuda", load_s=5.0, uses=1.0 + number % 7
        )
        for number, (name, profile) in enumerate(known_profiles.items())
    }
    devices = tuple(Device(id=f"cuda:{n}", kind="cuda", name="Card", memory_mb=CARD_MB) for n in range(CARDS))
    there: dict[str, Neuron] = {}
    resident: dict[str, list[tuple[str, str]]] = {}
    for number in range(neurons):
        name, replicas = f"n{number}", []
        for slot in range(CARDS * ON_A_CARD):
            other = names[2 + (number * CARDS * ON_A_CARD + slot) % (profiles - 3)]
            model = "m1" if number < M1_ON and slot == 0 else other
            replica = Replica(
                id=f"{name}.{slot}",
                version=1,
                model=model,
                digest=known_profiles[model].digest,
                state=State.READY,
                devices=(Share(f"cuda:{slot // ON_A_CARD}", MODEL_MB),),
                max_in_flight=64,
                idle_s=10.0 + slot,
                load_s=5.0,
            )
            replicas.append(replica)
            resident.setdefault(model, []).append((name, replica.id))
        there[name] = Neuron(
            name=name,
            up=True,
            instance_id=name,
            devices=devices,
            replicas=tuple(replicas),
            checkpoints=folders,
            known=learned,
        )
    index = {model: tuple(places) for model, places in resident.items()}
    return Fleet(neurons=there, profiles=known_profiles, resident=index)


def run(plan: Plan) -> list[Costs]:
    return [asyncio.run(_costs(neurons, plan.rounds)) for neurons in SIZES]


async def _costs(neurons: int, rounds: int) -> Costs:
    fleet = fleet_of(neurons)
    dispatcher = Dispatcher(fleet, Nowhere(), Rules(max_waiters=2 * WAITERS), clock=time.monotonic)
    backlog = Backlog(model=f"m{PROFILES - 1}", waiters=1, oldest=time.monotonic())
    by_lru = Dispatcher(fleet, Nowhere(), Rules(strategy="lru"), clock=time.monotonic)
    picture = dispatcher.picture()
    for one in (dispatcher, by_lru):
        place(one.picture(), backlog)
    serve_us = [await _serve_us(dispatcher) for _ in range(rounds)]
    return Costs(
        neurons=neurons,
        serve_us=min(serve_us),
        queued_us=min([await _queued_us(fleet) for _ in range(rounds)]),
        plan_us=_least_us(lambda: place(dispatcher.picture(), backlog), rounds, 20),
        fresh_plan_us=_fresh_plan_us(picture, backlog, rounds),
        lru_plan_us=_least_us(lambda: place(by_lru.picture(), backlog), rounds, 20),
    )


async def _serve_us(dispatcher: Dispatcher, count: int = 1000) -> float:
    """A lease taken and given back."""
    began = time.process_time()
    for number in range(count):
        want = Want(model="m1", request_id="r", caller="c", session=f"s{number}", arrived=dispatcher.clock())
        with await dispatcher.lease(want):
            pass
    return (time.process_time() - began) / count * 1e6


async def _queued_us(fleet: Fleet) -> float:
    """Of a thousand who wait for a replica that takes 64 at a time: each lease until the last, arrival included."""
    dispatcher = Dispatcher(fleet, Nowhere(), Rules(max_waiters=2 * WAITERS), clock=time.monotonic)

    async def one(number: int) -> None:
        want = Want(model="m1", request_id=f"r{number}", caller=f"c{number}", arrived=dispatcher.clock())
        with await dispatcher.lease(want):
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(dispatcher.run())
        await asyncio.sleep(0)
        began = time.process_time()
        async with asyncio.TaskGroup() as asking:
            for number in range(WAITERS):
                asking.create_task(one(number))
        spent_s = time.process_time() - began
        running.cancel()
    return spent_s / WAITERS * 1e6


def _least_us(decide: Callable[[], object], rounds: int, count: int) -> float:
    spent = []
    for _ in range(rounds):
        began = time.process_time()
        for _ in range(count):
            decide()
        spent.append((time.process_time() - began) / count)
    return min(spent) * 1e6


def _fresh_plan_us(picture: Picture, backlog: Backlog, rounds: int) -> float:
    """After something happened at every neuron, and nobody has looked for a place since."""

    def aged() -> Picture:
        surveys = Surveys()
        after = structs.replace(picture, surveys=surveys)
        for neuron in picture.fleet.neurons:
            surveys.forget(neuron)
            surveys.catch_up(lambda: after)
        return after

    pictures = iter([aged() for _ in range(rounds * FRESH)])
    return _least_us(lambda: place(next(pictures), backlog), rounds, FRESH)


def table(costs: list[Costs]) -> list[list[str]]:
    rows = [["µs of processor time", *(f"{cost.neurons} neurons" for cost in costs), "goal"]]
    for text, figure, goal in (
        ("a lease where there is room", "serve_us", "≤ 50, flat"),
        (f"a lease out of a queue of {WAITERS:,}", "queued_us", ""),
        ("a swap's plan", "plan_us", "≤ 2,000 at 300"),
        ("a swap's plan, as much new as can be", "fresh_plan_us", "≤ 2,000 at 300"),
        ("a swap's plan, by lru", "lru_plan_us", "≤ 2,000 at 300"),
    ):
        rows.append([text, *(f"{getattr(cost, figure):,.1f}" for cost in costs), goal])
    return rows


def notes(plan: Plan) -> list[str]:
    of_what = f"{PROFILES:,} profiles; neurons of {CARDS} cards with {ON_A_CARD} models each, all full"
    return [machine(), f"{of_what}; the least of {plan.rounds} rounds"]

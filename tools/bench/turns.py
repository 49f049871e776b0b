"""R24: how much of one device's time does work, when two to four models want it and one fits.

Ours and plain LRU against fixed turns: model after model in a circle, each for so many seconds while it has requests,
and the next one at once when it has none. The turn's length is swept up to the one that ours has, for with longer ones
everybody waits longer. All have the same trace, half as much again as the device can do.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from dataclasses import dataclass

from msgspec import structs

from cortex_core.fleet import Profile
from cortex_gateway.dispatch.dispatcher import Rules
from cortex_gateway.policy.turns import turn_s
from cortex_gateway.sim import Scenario, clock, simulate
from cortex_gateway.sim.clients import Ask, Client
from cortex_gateway.sim.engine import Engine, Generation, Speed
from cortex_gateway.sim.scenario import device
from cortex_gateway.sim.truth import Model
from tools.bench.cores import machine
from tools.bench.fleet import mean

GB = 1024
OVER = 1.5  # times what the device can do
TOKENS = (50, 100, 200, 400)
SPEED = Speed()
SHARES = (0.25, 0.5, 0.75, 1.0)  # of our turn


@dataclass(frozen=True, slots=True)
class Plan:
    counts: tuple[int, ...] = (2, 3, 4)
    loads_s: tuple[float, ...] = (2.0, 5.0, 10.0)
    seeds: tuple[int, ...] = (1, 2, 3)
    seconds: float = 1200.0


@dataclass(frozen=True, slots=True)
class Found:
    """Shares of the time in which the device did what it can, and waits."""

    models: int
    load_s: float
    best_turn_s: float
    fixed: float
    ours: float
    lru: float
    ours_p95_s: float
    lru_p95_s: float
    ours_swaps_h: float
    lru_swaps_h: float


Arrivals = list[tuple[float, str, int]]


def run(plan: Plan) -> list[Found]:
    return [_found(plan, count, load_s) for count in plan.counts for load_s in plan.loads_s]


def _found(plan: Plan, count: int, load_s: float) -> Found:
    traces = [arrivals(count, plan.seconds, seed) for seed in plan.seeds]
    whole = SPEED.tokens_per_s * plan.seconds
    swept = {
        turn: mean(clock.run(fixed(trace, turn, load_s, plan.seconds), limit_s=1e6) / whole for trace in traces)
        for turn in (share * turn_s(load_s) for share in SHARES)
    }
    best_turn_s = max(swept, key=lambda turn: swept[turn])
    ours = [simulate(scenario(trace, count, load_s, plan.seconds), 1) for trace in traces]
    lru = [simulate(plain_lru(scenario(trace, count, load_s, plan.seconds)), 1) for trace in traces]
    return Found(
        models=count,
        load_s=load_s,
        best_turn_s=best_turn_s,
        fixed=swept[best_turn_s],
        ours=mean(outcome.work["made"] / whole for outcome in ours),
        lru=mean(outcome.work["made"] / whole for outcome in lru),
        ours_p95_s=mean(_p95_s(outcome) for outcome in ours),
        lru_p95_s=mean(_p95_s(outcome) for outcome in lru),
        ours_swaps_h=mean(len(outcome.loads) for outcome in ours) / plan.seconds * 3600,
        lru_swaps_h=mean(len(outcome.loads) for outcome in lru) / plan.seconds * 3600,
    )


def _p95_s(outcome: object) -> float:
    from cortex_gateway.sim.trace import percentile

    waits = sorted(a.waited_s for a in outcome.answers if a.outcome == "served")  # type: ignore[attr-defined]
    return percentile(waits, 0.95)


def arrivals(count: int, seconds: float, seed: int) -> Arrivals:
    dice = random.Random(f"turns {count} {seed}")
    rate = OVER * SPEED.tokens_per_s / (sum(TOKENS) / len(TOKENS))
    found: Arrivals = []
    at_s = dice.expovariate(rate)
    while at_s < seconds:
        found.append((at_s, f"m{dice.randint(1, count)}", dice.choice(TOKENS)))
        at_s += dice.expovariate(rate)
    return found


def scenario(trace: Arrivals, count: int, load_s: float, seconds: float) -> Scenario:
    models = {f"m{n}": Model(need_mb=16 * GB, load_s=load_s, speed=SPEED) for n in range(1, count + 1)}
    return Scenario(
        neurons={"n1": (device(24 * GB),)},
        models=models,
        profiles={name: Profile(id=name, vram_mb=model.need_mb) for name, model in models.items()},
        gateways={"gw1": 0.0005},
        rules=Rules(max_waiters=100_000),
        clients=tuple(
            Client(name=f"c{n}", gateway="gw1", asks=(Ask(model=model, after_s=at_s, tokens=tokens),))
            for n, (at_s, model, tokens) in enumerate(trace)
        ),
        limit_s=1e6,
        until_s=seconds,
    )


def plain_lru(ours: Scenario) -> Scenario:
    return structs.replace(ours, rules=structs.replace(ours.rules, strategy="lru"), guard_s=0.0)


async def fixed(trace: Arrivals, turn: float, load_s: float, seconds: float, unload_s: float = 1.0) -> float:
    """Tokens that were made until then."""
    loop = asyncio.get_running_loop()
    queues: dict[str, deque[Generation]] = {}
    came = asyncio.Event()

    def arrive(number: int, model: str, tokens: int) -> None:
        queues.setdefault(model, deque()).append(Generation("g", str(number), tokens))
        came.set()

    for number, (at_s, model, tokens) in enumerate(trace):
        loop.call_at(at_s, arrive, number, model, tokens)

    made, resident = 0.0, ""
    order = [f"m{n}" for n in range(1, len({model for _, model, _ in trace}) + 1)]
    try:
        async with asyncio.timeout_at(seconds):
            while True:
                model = next((name for name in order if queues.get(name)), "")
                if not model:
                    came.clear()
                    await came.wait()
                    continue
                order.remove(model)
                order.append(model)
                if model != resident:
                    await asyncio.sleep(load_s + (unload_s if resident else 0.0))
                resident = model
                engine = Engine(SPEED)
                try:
                    await _serve(engine, queues, model, loop.time() + turn)
                finally:
                    engine.cut()
                    made += engine.work["made"]
    except TimeoutError:
        return made


async def _serve(engine: Engine, queues: dict[str, deque[Generation]], model: str, until: float) -> None:
    """Let in while its turn lasts, or nobody else waits; then let who is in finish."""
    loop, queue, running = asyncio.get_running_loop(), queues[model], set[asyncio.Future[None]]()
    while True:
        others = any(waiting for name, waiting in queues.items() if name != model)
        while queue and (loop.time() < until or not others) and len(running) < SPEED.max_in_flight:
            generation = queue.popleft()
            engine.admit(generation)
            running.add(generation.ended)
        if not running:
            return
        done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        for ended in done:
            ended.exception()


def table(found: list[Found]) -> list[list[str]]:
    rows = [
        ["models", "load s", "best fixed turn s", "its work", "our work", "ours ÷ best", "plain LRU's work",
         "wait p95 s: ours, LRU", "swaps/h: ours, LRU", "goal"]
    ]  # fmt: skip
    for one in found:
        ratio = one.ours / one.fixed
        rows.append(
            [
                str(one.models),
                f"{one.load_s:g}",
                f"{one.best_turn_s:g}",
                f"{one.fixed:.1%}",
                f"{one.ours:.1%}",
                f"{ratio:.1%}",
                f"{one.lru:.1%}",
                f"{one.ours_p95_s:.0f}, {one.lru_p95_s:.0f}",
                f"{one.ours_swaps_h:.0f}, {one.lru_swaps_h:.0f}",
                f"≥ 90 % {'✓' if ratio >= 0.9 else '✗'}",
            ]
        )
    return rows


def notes(plan: Plan) -> list[str]:
    seeds = ", ".join(map(str, plan.seeds))
    over = f"{plan.seconds:g} s of arrivals at {OVER:g} times what the device can do"
    return [machine(), f"simulated; seeds {seeds}; {over}; work is the share of the tokens that it could make"]

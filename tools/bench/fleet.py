"""The fleet in simulation: ours against plain LRU and against round robin, on one trace over 3, 30 and 300 neurons.

*Ours by lru* differs from ours in who is evicted only: whatever was used longest ago, once it has had its turn.
The trace: models by Zipf's law; a third single requests, a third bursts, a third agents' sessions whose prompts grow.
*Plain LRU* is the same gateway that evicts whatever was used longest ago, as soon as its requests have ended: no turns.
*Round robin* is a balancer that sends each request to the next host on which its model fits; each host is plain LRU.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate, cycle

from msgspec import structs

from cortex_core.fleet import Device, Profile, Replicas
from cortex_gateway.dispatch.dispatcher import Rules
from cortex_gateway.sim import Scenario, simulate
from cortex_gateway.sim.clients import Ask, Client
from cortex_gateway.sim.engine import Speed
from cortex_gateway.sim.scenario import device
from cortex_gateway.sim.trace import Figures, figures
from cortex_gateway.sim.truth import Model
from tools.bench.cores import machine

GB = 1024
HOSTS_GB = ((24,), (24, 24), (48,))
MODELS_GB = (6, 8, 10, 16, 20)
MODELS_A_NEURON = 8
ZIPF = 1.1
READ_GB_PER_S, START_S = 2.0, 1.0  # a load: its weights from a disk, and the rest
REQUESTS_PER_S = 0.4  # a neuron
BURST, TURNS = 10, 10
SPEED = Speed(prompt_cost=0.02, cache_tokens=32_768)
DISTANCE_S = 0.0005  # from a gateway to a neuron
ROUND_ROBIN_HOSTS = 30
OURS, OURS_BY_LRU, LRU, ROUND_ROBIN = "ours", "ours by lru", "plain LRU", "round robin"


@dataclass(frozen=True, slots=True)
class Plan:
    sizes: tuple[int, ...] = (3, 30, 300)
    seeds: tuple[int, ...] = (1, 2, 3)
    neuron_seconds: float = 18_000.0  # of arrivals, over all neurons of a fleet; 1,200 s at most

    def length_s(self, size: int) -> float:
        return min(1200.0, self.neuron_seconds / size)


def run(plan: Plan) -> dict[tuple[int, str], list[Figures]]:
    """(size, system) → figures of each seed."""
    found: dict[tuple[int, str], list[Figures]] = {}
    for size in plan.sizes:
        for seed in plan.seeds:
            ours = scenario(size, seed, plan.length_s(size))
            systems = {OURS: ours, OURS_BY_LRU: by_lru(ours), LRU: plain_lru(ours), ROUND_ROBIN: round_robin(ours)}
            for system, what in systems.items():
                found.setdefault((size, system), []).append(figures(simulate(what, seed)))
    return found


def scenario(size: int, seed: int, seconds: float) -> Scenario:
    dice = random.Random(f"fleet {size} {seed}")
    cards = [HOSTS_GB[number % len(HOSTS_GB)] for number in range(size)]
    hosts = {f"n{n}": tuple(device(gb * GB, c) for c, gb in enumerate(own)) for n, own in enumerate(cards)}
    sizes_gb = [dice.choice(MODELS_GB) for _ in range(MODELS_A_NEURON * size)]
    models = {f"m{n}": _model(gb) for n, gb in enumerate(sizes_gb)}
    most = max(2, size // 10)
    return Scenario(
        neurons=hosts,
        models=models,
        profiles={name: Profile(id=name, vram_mb=m.need_mb, replicas=Replicas(0, most)) for name, m in models.items()},
        gateways={"gw1": DISTANCE_S},
        rules=Rules(max_waiters=10_000),
        clients=_clients(dice, tuple(models), int(REQUESTS_PER_S * size * seconds), seconds),
        limit_s=50_000.0,
    )


def _model(gb: int) -> Model:
    return Model(need_mb=gb * GB, load_s=START_S + gb / READ_GB_PER_S, speed=SPEED)


def _clients(dice: random.Random, models: tuple[str, ...], requests: int, seconds: float) -> tuple[Client, ...]:
    shares = list(accumulate(1 / rank**ZIPF for rank in range(1, len(models) + 1)))
    clients: list[Client] = []

    def add(model: str, at_s: float, turns: int = 1) -> None:
        asks = tuple(
            Ask(
                model=model,
                after_s=at_s if turn == 0 else dice.uniform(1, 5),
                tokens=dice.choice((40, 100, 200, 400)),
                prompt_tokens=(1500 if turns > 1 else 300) + 500 * turn,
            )
            for turn in range(turns)
        )
        clients.append(Client(name=f"c{len(clients)}", gateway="gw1", asks=asks))

    for _ in range(requests // 3):
        add(dice.choices(models, cum_weights=shares)[0], dice.uniform(0, seconds))
    for _ in range(requests // 3 // BURST):
        model, at_s = dice.choices(models, cum_weights=shares)[0], dice.uniform(0, seconds)
        for _ in range(BURST):
            add(model, at_s + dice.uniform(0, 1))
    for _ in range(requests // 3 // TURNS):
        add(dice.choices(models, cum_weights=shares)[0], dice.uniform(0, seconds), TURNS)
    return tuple(clients)


def by_lru(ours: Scenario) -> Scenario:
    return structs.replace(ours, rules=structs.replace(ours.rules, strategy="lru"))


def plain_lru(ours: Scenario) -> Scenario:
    return structs.replace(by_lru(ours), guard_s=0.0)


def round_robin(ours: Scenario) -> Scenario:
    """A gateway for each host, and each request to the next host that is large enough.

    Its hosts have nothing to do with one another, so of a large fleet some stand for all.
    """
    every = ours.neurons.items()
    fits = {model: [name for name, cards in every if _fits(known, cards)] for model, known in ours.models.items()}
    turns = {model: cycle(names) for model, names in fits.items()}
    played = dict(list(every)[:ROUND_ROBIN_HOSTS])

    def sent(client: Client) -> Client:
        asks = [structs.replace(ask, gateway=f"at {next(turns[ask.model])}") for ask in client.asks]
        here = tuple(ask for ask in asks if ask.gateway[3:] in played)
        if here and here[0] is not asks[0]:
            here = (structs.replace(here[0], after_s=asks[0].after_s), *here[1:])
        return structs.replace(client, gateway=asks[0].gateway, asks=here)

    by_time = sorted(ours.clients, key=lambda client: client.asks[0].after_s)
    return structs.replace(
        plain_lru(ours),
        neurons=played,
        gateways={f"at {name}": DISTANCE_S for name in played},
        sees={f"at {name}": (name,) for name in played},
        clients=tuple(client for client in map(sent, by_time) if client.asks),
        profiles={name: structs.replace(entry, replicas=Replicas()) for name, entry in ours.profiles.items()},
    )


def _fits(model: Model, cards: tuple[Device, ...]) -> bool:
    return any(card.memory_mb >= model.need_mb for card in cards)


def table(found: dict[tuple[int, str], list[Figures]]) -> list[list[str]]:
    """The mean of the seeds."""
    rows = [
        ["neurons", "system", "served", "wait p50 s", "wait p95 s", "swaps/h a neuron", "served warm", "prompt reused"]
    ]
    for (size, system), each in found.items():
        hosts = min(size, ROUND_ROBIN_HOSTS) if system == ROUND_ROBIN else size
        served = sum(one.outcomes.get("served", 0) for one in each) / sum(one.requests for one in each)
        rows.append(
            [
                str(size),
                system,
                f"{served:.1%}",
                f"{mean(one.wait_p50_s for one in each):.2f}",
                f"{mean(one.wait_p95_s for one in each):.2f}",
                f"{mean(one.loads_per_hour for one in each) / hosts:.0f}",
                f"{mean(one.warm for one in each):.1%}",
                f"{mean(one.reused for one in each):.1%}",
            ]
        )
    return rows


def mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


def notes(plan: Plan) -> list[str]:
    lengths = ", ".join(f"{plan.length_s(size):g} s over {size}" for size in plan.sizes)
    what = (
        f"{REQUESTS_PER_S:g} requests/s and {MODELS_A_NEURON} models a neuron, of which about three fit; Zipf {ZIPF:g}"
    )
    kinds = f"a third alone, a third in bursts of {BURST}, a third agents' sessions of {TURNS}"
    return [
        machine(),
        f"simulated; seeds {', '.join(map(str, plan.seeds))}; arrivals for {lengths} neurons",
        f"{what}; {kinds}; hosts of 24, 2 × 24 and 48 GB",
        f"of round robin's hosts, which have nothing to do with one another, {ROUND_ROBIN_HOSTS} at most are played",
    ]

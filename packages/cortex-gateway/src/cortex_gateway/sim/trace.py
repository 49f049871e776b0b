"""A recorded trace and a described fleet, as a scenario; and what became of it, in figures.

A trace is JSON lines, in any order: `{"at_s": 0.5, "model": "m", "prompt_tokens": 900, "completion_tokens": 200,
"caller": "key-1"}`; the last three may be left out. Requests of one caller share a session.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from cortex_core.fleet import Count, Device, ModelId, NeuronName, Profile, Replicas
from cortex_gateway.dispatch.dispatcher import Rules
from cortex_gateway.sim.clients import Ask, Client
from cortex_gateway.sim.engine import Speed
from cortex_gateway.sim.run import Outcome, simulate
from cortex_gateway.sim.scenario import Scenario
from cortex_gateway.sim.truth import Model

Seconds = Annotated[float, Meta(ge=0)]
DISTANCE_S = 0.0005  # from a gateway to a neuron
LIMIT_S = 7 * 86_400.0


class BadInput(ValueError):
    """What is wrong, with the line or the field."""


class Asked(Struct, frozen=True, kw_only=True):
    """One line of a trace; further fields are passed over."""

    at_s: Seconds
    model: str
    prompt_tokens: Count = 0
    completion_tokens: Count = 100
    caller: str = ""


class Host(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[[neurons]]`: a host and its cards."""

    name: NeuronName
    cards_mb: Annotated[tuple[Annotated[int, Meta(ge=1)], ...], Meta(min_length=1)]


class Served(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[[models]]`: what a model needs, and how fast it is."""

    id: ModelId
    vram_mb: Annotated[int, Meta(ge=1)]
    load_s: Seconds = 10.0
    unload_s: Seconds = 1.0
    min_devices: Annotated[int, Meta(ge=1)] = 1
    replicas_max: Annotated[int, Meta(ge=1)] = 1
    pinned_on: tuple[NeuronName, ...] = ()
    max_in_flight: Annotated[int, Meta(ge=1)] = 8
    max_queue_depth: Count = 8
    tokens_per_s: Annotated[float, Meta(gt=0)] = 400.0
    request_tokens_per_s: Annotated[float, Meta(gt=0)] = 80.0
    prompt_tokens_per_s: Annotated[float, Meta(gt=0)] = 4000.0
    cache_tokens: Count = 32_768


class Description(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A fleet's file."""

    neurons: Annotated[tuple[Host, ...], Meta(min_length=1)]
    models: Annotated[tuple[Served, ...], Meta(min_length=1)]


class Figures(Struct, frozen=True, kw_only=True):
    """Of one simulation. A wait is from a request's arrival to its lease."""

    requests: int
    outcomes: Mapping[str, int]
    hours: float  # virtual
    wait_p50_s: float
    wait_p95_s: float
    wait_max_s: float
    total_p95_s: float  # from asking to the last token, told to come again or not
    loads: int
    loads_per_hour: float
    warm: float  # share of the served that waited for no load
    reused: float  # share of prompt tokens found in a prefix cache
    tokens_per_s: float


def read_trace(text: str) -> list[Asked]:
    """Raises BadInput, naming the line."""
    asked = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                asked.append(msgspec.json.decode(line, type=Asked))
            except msgspec.DecodeError as error:
                raise BadInput(f"line {number}: {error}") from error
    if not asked:
        raise BadInput("the trace is empty")
    return sorted(asked, key=lambda one: one.at_s)


def read_fleet(text: str) -> Description:
    """Raises BadInput, naming the field."""
    try:
        return msgspec.toml.decode(text, type=Description)
    except msgspec.DecodeError as error:
        raise BadInput(str(error)) from error


def scenario(
    described: Description,
    trace: list[Asked],
    *,
    strategy: Literal["cost", "lru", "priority"] = "cost",
    gateways: int = 1,
) -> Scenario:
    """Raises BadInput: the trace asks for what the fleet does not have."""
    models = {one.id: one for one in described.models}
    if unknown := {one.model for one in trace} - models.keys():
        raise BadInput(f"models that the fleet's file does not describe: {', '.join(sorted(unknown))}")
    names = [f"gw{number}" for number in range(1, gateways + 1)]
    return Scenario(
        neurons={host.name: tuple(_card(mb, n) for n, mb in enumerate(host.cards_mb)) for host in described.neurons},
        models={name: _model(one) for name, one in models.items()},
        profiles={name: _profile(one) for name, one in models.items()},
        gateways=dict.fromkeys(names, DISTANCE_S),
        rules=Rules(strategy=strategy, max_waiters=max(1000, len(trace))),
        clients=tuple(_client(number, one, names[number % gateways]) for number, one in enumerate(trace)),
        limit_s=LIMIT_S,
    )


def play(what: Scenario, seed: int = 0) -> Figures:
    return figures(simulate(what, seed))


def figures(outcome: Outcome) -> Figures:
    served = [answer for answer in outcome.answers if answer.outcome == "served"]
    waits_s = sorted(answer.waited_s for answer in served)
    hours = outcome.virtual_s / 3600
    return Figures(
        requests=len(outcome.answers),
        outcomes=outcome.outcomes,
        hours=hours,
        wait_p50_s=percentile(waits_s, 0.5),
        wait_p95_s=percentile(waits_s, 0.95),
        wait_max_s=percentile(waits_s, 1.0),
        total_p95_s=percentile(sorted(answer.seconds for answer in served), 0.95),
        loads=len(outcome.loads),
        loads_per_hour=len(outcome.loads) / hours if hours else 0.0,
        warm=sum(not answer.cold for answer in served) / max(1, len(served)),
        reused=outcome.work.get("reused", 0) / max(1, outcome.work.get("prompted", 0)),
        tokens_per_s=outcome.work.get("made", 0) / max(1e-9, outcome.virtual_s),
    )


def percentile(ascending: list[float], share: float) -> float:
    """Between the two nearest, linearly; 0 of nothing."""
    if not ascending:
        return 0.0
    place = share * (len(ascending) - 1)
    low = int(place)
    low_s, high_s = next(iter(pairwise(ascending[low : low + 2])), (ascending[low], ascending[low]))
    return low_s + (place - low) * (high_s - low_s)


def _card(memory_mb: int, number: int) -> Device:
    return Device(id=f"cuda:{number}", name=f"{memory_mb} MB", kind="cuda", memory_mb=memory_mb)


def _model(one: Served) -> Model:
    speed = Speed(
        max_in_flight=one.max_in_flight,
        max_queue_depth=one.max_queue_depth,
        tokens_per_s=one.tokens_per_s,
        request_tokens_per_s=one.request_tokens_per_s,
        prompt_cost=one.request_tokens_per_s / one.prompt_tokens_per_s,
        cache_tokens=one.cache_tokens,
    )
    return Model(need_mb=one.vram_mb, load_s=one.load_s, unload_s=one.unload_s, speed=speed)


def _profile(one: Served) -> Profile:
    return Profile(
        id=one.id,
        vram_mb=one.vram_mb,
        min_devices=one.min_devices,
        pinned_on=one.pinned_on,
        replicas=Replicas(0, one.replicas_max),
    )


def _client(number: int, one: Asked, gateway: str) -> Client:
    ask = Ask(model=one.model, after_s=one.at_s, tokens=max(1, one.completion_tokens), prompt_tokens=one.prompt_tokens)
    return Client(name=f"r{number}", gateway=gateway, asks=(ask,), caller=one.caller)

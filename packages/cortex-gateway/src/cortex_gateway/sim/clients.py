"""Who asks for what, and when: traces as values, drawn from a die."""

from __future__ import annotations

import random

from msgspec import Struct, structs


class Ask(Struct, frozen=True, kw_only=True):
    """One request."""

    model: str
    after_s: float  # since its client's last answer, or since the beginning
    tokens: int = 40
    prompt_tokens: int = 0
    gateway: str = ""  # another than its client's
    priority: int = 5
    leaves_after_s: float | None = None  # the client goes away, wherever the request stands


class Client(Struct, frozen=True, kw_only=True):
    """Somebody who asks one thing after the other, through one gateway, and comes again when told so."""

    name: str
    gateway: str
    asks: tuple[Ask, ...]
    hold_s: float = 240.0
    patience: int = 3  # how often a request that was told to come again does
    caller: str = ""  # whose share of the fleet it takes; empty: its own


LEAVES = 0.15  # the share of requests whose client goes away
TOKENS = (1, 8, 40, 40, 200, 1500)


def poisson(
    dice: random.Random, models: tuple[str, ...], gateways: tuple[str, ...], requests: int, over_s: float
) -> tuple[Client, ...]:
    """Each request on its own, all models alike."""
    return _single(dice, [dice.choice(models) for _ in range(requests)], gateways, over_s)


def zipf(
    dice: random.Random, models: tuple[str, ...], gateways: tuple[str, ...], requests: int, over_s: float
) -> tuple[Client, ...]:
    """Each request on its own, the first model the most wanted, the n-th 1/n as much."""
    weights = [1 / rank for rank in range(1, len(models) + 1)]
    return _single(dice, dice.choices(models, weights, k=requests), gateways, over_s)


def together(
    dice: random.Random, models: tuple[str, ...], gateways: tuple[str, ...], requests: int, over_s: float
) -> tuple[Client, ...]:
    """Bursts: ten requests for one model in the same second."""
    clients: list[Client] = []
    while len(clients) < requests:
        at_s, model = float(dice.randint(0, int(over_s))), dice.choice(models)
        for _ in range(min(10, requests - len(clients))):
            clients.append(_client(dice, len(clients), gateways, (_ask(dice, model, at_s),)))
    return tuple(clients)


def sessions(
    dice: random.Random, models: tuple[str, ...], gateways: tuple[str, ...], requests: int, over_s: float
) -> tuple[Client, ...]:
    """Agents: each stays with a model, and asks again a moment after each answer."""
    count = max(1, requests // 10)
    clients = []
    for number in range(count):
        model = dice.choice(models)
        later = (_ask(dice, model, float(dice.choice([0, 1, 2]))) for _ in range(requests // count - 1))
        asks = (_ask(dice, model, float(dice.randint(0, int(over_s)))), *later)
        clients.append(_client(dice, number, gateways, asks))
    return tuple(clients)


def sequential(
    dice: random.Random, models: tuple[str, ...], gateways: tuple[str, ...], requests: int, over_s: float
) -> tuple[Client, ...]:
    """A few users who each want one model after the other: A, B, A, B."""
    count = max(1, requests // 20)
    clients = []
    for number in range(count):
        own = dice.sample(models, min(2, len(models)))
        asks = [_ask(dice, own[turn % len(own)], float(dice.choice([0, 1, 3]))) for turn in range(requests // count)]
        asks[0] = structs.replace(asks[0], after_s=dice.uniform(0, over_s))
        clients.append(_client(dice, number, gateways, tuple(asks)))
    return tuple(clients)


def _single(dice: random.Random, models: list[str], gateways: tuple[str, ...], over_s: float) -> tuple[Client, ...]:
    asks = (_ask(dice, model, dice.uniform(0, over_s)) for model in models)
    return tuple(_client(dice, number, gateways, (ask,)) for number, ask in enumerate(asks))


def _ask(dice: random.Random, model: str, after_s: float) -> Ask:
    leaves = float(dice.choice([0, 1, 2, 5, 10])) if dice.random() < LEAVES else None
    priority = dice.choice((5, 5, 5, 1, 9))
    return Ask(model=model, after_s=after_s, tokens=dice.choice(TOKENS), priority=priority, leaves_after_s=leaves)


def _client(dice: random.Random, number: int, gateways: tuple[str, ...], asks: tuple[Ask, ...]) -> Client:
    return Client(name=f"c{number}", gateway=dice.choice(gateways), asks=asks, hold_s=dice.choice((240.0, 240.0, 20.0)))

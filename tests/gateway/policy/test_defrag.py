"""Moving one idle replica so that what no single device can hold fits on one again."""

from __future__ import annotations

from typing import Any

import pytest

from cortex_core.fleet import Share
from cortex_gateway.policy.defrag import defragment
from cortex_gateway.policy.schedule import Swap
from tests.gateway.policy.fleets import card, neuron, picture, profile, replica

TWO = (card(0), card(1))
WANTED = profile("m1", 20_000)


def moves(
    *residents: Any, cycles: int = 5, after: int = 5, wanted: tuple[str, ...] = ("m1",), **fields: Any
) -> list[Swap]:
    one = neuron("n1", *residents, **{"devices": TWO, **fields})
    return defragment(picture(one, profiles=[WANTED]), {"n1": cycles}, after, wanted)


SPREAD = (replica("m2", 8000, on=(0,)), replica("m3", 10_000, on=(1,)))


def test_the_smaller_one_moves() -> None:
    [move] = moves(*SPREAD)
    assert (move.model, move.reason) == ("m2", "defragment")
    assert move.candidate.shares == (Share("cuda:1", 8000),)
    assert [victim.id for victim in move.candidate.victims] == ["m2"]


NOT_MOVED: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("never", SPREAD, {"after": 0}),
    ("too few swaps", SPREAD, {"cycles": 4}),
    ("nothing is wanted", SPREAD, {"wanted": ()}),
    ("it fits as it is", SPREAD[:1], {}),
    ("it would not fit together either", (replica("m2", 16_000, on=(0,)), replica("m3", 16_000, on=(1,))), {}),
    ("both are busy", tuple(replica(r.model, 8000, on=(n,), in_flight=1) for n, r in enumerate(SPREAD)), {}),
    ("both are pinned", tuple(replica(r.model, 8000, on=(n,), pinned=True) for n, r in enumerate(SPREAD)), {}),
    ("cordoned", SPREAD, {"cordoned": True}),
    ("down", SPREAD, {"up": False}),
    ("unlike cards", SPREAD, {"devices": (card(0), card(1, name="Other"))}),
]


@pytest.mark.parametrize(("residents", "fields"), [n[1:] for n in NOT_MOVED], ids=[n[0] for n in NOT_MOVED])
def test_nothing_moves(residents: tuple[Any, ...], fields: dict[str, Any]) -> None:
    assert moves(*residents, **fields) == []

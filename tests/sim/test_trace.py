"""A recorded trace, as `cortex simulate` plays it."""

from __future__ import annotations

import json

import pytest

from cortex_gateway.sim.trace import Asked, BadInput, percentile, play, read_fleet, read_trace, scenario

FLEET = """
[[neurons]]
name = "beast"
cards_mb = [24576]

[[models]]
id = "a"
vram_mb = 16000
load_s = 5

[[models]]
id = "b"
vram_mb = 16000
load_s = 5
"""


def line(at_s: float, model: str, **fields: object) -> str:
    return json.dumps({"at_s": at_s, "model": model, **fields})


def test_a_trace_is_read_in_the_order_of_its_times() -> None:
    text = "\n".join([line(2, "b", caller="k", more="passed over"), "", line(1, "a", prompt_tokens=9)])
    assert read_trace(text) == [Asked(at_s=1, model="a", prompt_tokens=9), Asked(at_s=2, model="b", caller="k")]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "empty"),
        (line(1, "a") + "\nnonsense", "line 2"),
        (line(-1, "a"), "at_s"),
        (line(1, "a", completion_tokens="many"), "completion_tokens"),
    ],
)
def test_a_bad_line_is_named(text: str, named: str) -> None:
    with pytest.raises(BadInput, match=named):
        read_trace(text)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("cards_mb", "card_mb"), "card_mb|cards_mb"),
        (("16000", "0"), "vram_mb"),
        (("[[models]]", "[[model]]"), "model"),
    ],
)
def test_a_bad_field_of_the_fleet_is_named(change: tuple[str, str], named: str) -> None:
    with pytest.raises(BadInput, match=named):
        read_fleet(FLEET.replace(*change))


def test_a_model_that_is_not_described() -> None:
    with pytest.raises(BadInput, match="c, d"):
        scenario(read_fleet(FLEET), [Asked(at_s=0, model=name) for name in "dac"])


def test_its_figures() -> None:
    """One card, two models of which one fits, ten questions each in turn, far apart: every one waits for a load."""
    trace = [Asked(at_s=30.0 * n, model="ab"[n % 2], prompt_tokens=400, caller="k") for n in range(20)]
    found = play(scenario(read_fleet(FLEET), trace), 1)
    assert found.outcomes == {"served": 20}
    assert (found.loads, found.warm, found.reused) == (20, 0.0, 0.0)
    assert 5.0 < found.wait_p50_s < 6.5, "unload and load"


def test_who_asks_again_finds_its_model_and_its_prefix() -> None:
    trace = [Asked(at_s=10.0 * n, model="a", prompt_tokens=400 + 500 * n, caller="k") for n in range(10)]
    found = play(scenario(read_fleet(FLEET), trace, gateways=2), 1)
    assert (found.outcomes, found.loads) == ({"served": 10}, 1)
    assert found.warm == pytest.approx(0.9)
    assert found.reused > 0.75


def test_a_percentile_lies_between_its_neighbours() -> None:
    assert [percentile([1.0, 2.0, 4.0], share) for share in (0.0, 0.25, 0.5, 0.75, 1.0)] == [1.0, 1.5, 2.0, 3.0, 4.0]
    assert percentile([], 0.5) == 0.0

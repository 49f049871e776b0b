"""An operator steers the fleet from the terminal, against real processes."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.e2e.conftest import BEAST, BENJY, GIANT, THIRD, Cluster
from tests.e2e.test_command_line import cortex
from tests.support.chat import Answer, Chat
from tests.support.until import eventually, until


@pytest.fixture(autouse=True)
def whole(sim: Cluster) -> None:
    """Nothing loaded, pinned or cordoned."""
    for neuron in sim.neurons:
        assert neuron.post("/uncordon", {})[0] == 200
        for model in (BEAST, BENJY, THIRD):
            assert neuron.post("/models/pin", {"model": model, "pinned": False})[0] == 200
    sim.empty()
    until(lambda: not any(n["cordoned"] for n in sim.gateway.fleet()["neurons"]), what="the gateway's picture")


def test_load_and_unload(sim: Cluster) -> None:
    url = sim.gateway.url
    loaded = cortex("load", BEAST, "--neuron", "benjy", CORTEX_URL=url)
    assert (loaded.returncode, loaded.stderr) == (0, "")
    assert sim.home(BEAST) is sim.benjy
    until(lambda: sim.on_view("benjy", BEAST), what="the gateway's picture")
    assert cortex("load", BEAST, CORTEX_URL=url).returncode == 0, "it is there already"
    unloaded = cortex("unload", BEAST, CORTEX_URL=url)
    assert (unloaded.returncode, unloaded.stderr) == (0, "")
    assert sim.replicas() == []
    until(lambda: not sim.on_view("benjy", BEAST), what="the gateway's picture")
    assert cortex("unload", BEAST, CORTEX_URL=url).returncode == 5


def test_a_dry_run_changes_nothing_and_says_what_would(sim: Cluster) -> None:
    ran = cortex("load", BEAST, "--dry-run", CORTEX_URL=sim.gateway.url)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "loads" in ran.stdout
    assert sim.replicas() == []
    ran = cortex("load", GIANT, "--dry-run", CORTEX_URL=sim.gateway.url)
    assert ran.returncode == 6
    assert "100000" in ran.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["load", "unknown"], 5),
        (["load", BEAST, "--neuron", "nobody"], 5),
        (["load", GIANT], 6),
        (["unload", "unknown"], 5),
        (["pin", "unknown", "--neuron", "beast"], 5),
        (["cordon", "nobody"], 5),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, list) else None,
)
def test_what_cannot_be_done_ends_with_its_exit_code(sim: Cluster, arguments: list[str], code: int) -> None:
    ran = cortex(*arguments, CORTEX_URL=sim.gateway.url)
    assert (ran.returncode, ran.stdout) == (code, "")
    assert len(ran.stderr.splitlines()) == 1


async def test_a_pinned_model_is_never_evicted(sim: Cluster, chat: Chat) -> None:
    """Two replicas fit on each neuron: with all four places taken, the pinned ones stay."""
    for neuron in sim.neurons:
        sim.load(neuron, BEAST)
        sim.load(neuron, BENJY)
    ran = await asyncio.to_thread(cortex, "pin", BEAST, CORTEX_URL=sim.gateway.url)
    assert (ran.returncode, ran.stderr) == (0, "")
    await eventually(lambda: all(r["pinned"] for _, r in sim.replicas(BEAST)), what="pins")
    before = {replica["id"] for _, replica in sim.replicas(BEAST)}
    answer = await chat.ask(THIRD, max_tokens=2)
    assert answer.clean, answer
    assert {replica["id"] for _, replica in sim.replicas(BEAST)} == before
    assert len(sim.replicas(BENJY)) == 1


async def test_a_cordoned_neuron_gets_nothing_new_until_it_is_used_again(sim: Cluster, chat: Chat) -> None:
    ran = await asyncio.to_thread(cortex, "cordon", "beast", "--reason", "a fan", CORTEX_URL=sim.gateway.url)
    assert (ran.returncode, ran.stderr) == (0, "")
    until(lambda: "cordoned" in cortex("status", CORTEX_URL=sim.gateway.url).stdout, what="cordoned in status")
    for model in (BEAST, BENJY):
        answer = await chat.ask(model, max_tokens=2)
        assert answer.clean
        assert answer.headers["x-cortex-neuron"] == "benjy"
    ran = await asyncio.to_thread(cortex, "load", BEAST, "--neuron", "beast", CORTEX_URL=sim.gateway.url)
    assert ran.returncode != 0
    ran = await asyncio.to_thread(cortex, "uncordon", "beast", CORTEX_URL=sim.gateway.url)
    assert ran.returncode == 0
    await eventually(
        lambda: cortex("load", THIRD, "--neuron", "beast", CORTEX_URL=sim.gateway.url).returncode == 0,
        what="a load on it",
    )


async def unload_under(sim: Cluster, chat: Chat, tokens: int, *options: str) -> Answer:
    """What a client gets whose model is unloaded in the middle of its stream."""
    sim.load(sim.beast, BEAST)
    async with chat.open(BEAST, max_tokens=tokens) as stream, asyncio.TaskGroup() as group:
        await stream.first()
        reading = group.create_task(stream.rest())
        ran = await asyncio.to_thread(cortex, "unload", BEAST, *options, CORTEX_URL=sim.gateway.url)
        assert (ran.returncode, ran.stderr) == (0, "")
        assert sim.replicas() == []
    return reading.result()


async def test_unload_lets_requests_end(sim: Cluster, chat: Chat) -> None:
    assert (await unload_under(sim, chat, 200)).clean


async def test_unload_now_cuts_them_with_an_error(sim: Cluster, chat: Chat) -> None:
    answer = await unload_under(sim, chat, 1900, "--now")
    assert answer.error is not None
    assert answer.error["message"]
    assert not answer.done


def test_explain_tells_what_then_happens(sim: Cluster) -> None:
    said = json.loads(cortex("explain", BEAST, "--json", CORTEX_URL=sim.gateway.url).stdout)
    assert (said["outcome"], said["must_leave"]) == ("loads", [])
    assert {place["neuron"] for place in said["places"]} == {"beast", "benjy"}
    assert cortex("load", BEAST, CORTEX_URL=sim.gateway.url).returncode == 0
    assert sim.home(BEAST).name == said["neuron"]
    until(lambda: sim.on_view(said["neuron"], BEAST), what="the gateway's picture")
    said = json.loads(cortex("explain", BEAST, "--json", CORTEX_URL=sim.gateway.url).stdout)
    assert said["outcome"] == "served"

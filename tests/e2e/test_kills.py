"""goal_R27 and what the contract says of death: an in-band error and never a clean end; the others go on; it heals.

Each test kills one process with SIGKILL in the middle of a stream.
"""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import pytest

from tests.e2e.conftest import BEAST, BENJY, Cluster
from tests.support import engines
from tests.support.chat import Answer, Chat, Stream
from tests.support.process import alive, children
from tests.support.until import eventually, until, until_async

LONG: dict[str, Any] = {"max_tokens": 1900, "ignore_eos": True}  # of what is killed: seconds of work for vLLM
WHOLE: dict[str, Any] = {
    "max_tokens": 300,
    "ignore_eos": True,
    "stream_options": {"include_usage": True},
}  # of what goes on, to its end
AGAIN_S = 75.0  # until the same request is served again: a zygote's imports, on a busy machine


def check_cut(answer: Answer) -> None:
    """What the client of a killed engine was told."""
    assert answer.text, "the stream had begun"
    assert answer.error is not None, f"no word of what happened: {answer}"
    assert answer.error["message"]
    assert not answer.done, "a client would have taken this for the whole answer"
    assert not answer.clean


def check_whole(answer: Answer) -> None:
    assert answer.clean, answer
    assert answer.usage is not None
    assert answer.usage["completion_tokens"] == WHOLE["max_tokens"]


async def served_again(chat: Chat, model: str, timeout_s: float = AGAIN_S) -> Answer:
    """The next request, which nobody helps: it may be told to come again, as any client understands."""

    async def ask() -> Answer | None:
        answer = await chat.ask(model, "Say fish", max_tokens=4, temperature=0)
        if answer.clean:
            return answer
        assert answer.status in (503, 529), answer
        assert 1 <= int(answer.headers["retry-after"]) <= 30
        return None

    answer = await until_async(ask, timeout_s=timeout_s, poll_s=0.2, what=f"{model} served again")
    assert answer is not None
    return answer


async def started(*streams: Stream) -> None:
    for stream in streams:
        await stream.first()


@pytest.mark.engine
@engines.needs_vllm
@pytest.mark.parametrize("victim", ["core", "host"])
async def test_goal_R27_an_engine_dies_and_its_sibling_on_the_same_device_goes_on(
    vllm: Cluster, chat: Chat, victim: str
) -> None:
    vllm.load(vllm.beast, BEAST)
    vllm.load(vllm.beast, BENJY)
    find = engines.engine_core if victim == "core" else engines.engine_host
    pid = find(vllm.beast, BEAST)
    async with chat.open(BEAST, **LONG) as dies, chat.open(BENJY, **WHOLE) as lives:
        await started(dies, lives)
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(10):
            check_cut(await dies.rest())
        check_whole(await lives.rest())
    assert (await served_again(chat, BEAST)).text == "fish"
    assert (await served_again(chat, BENJY)).text == "fish"


@pytest.mark.engine
@engines.needs_vllm
@pytest.mark.timeout(240)
async def test_a_zygote_dies_and_the_other_neuron_goes_on(vllm: Cluster, chat: Chat) -> None:
    vllm.load(vllm.beast, BEAST)
    vllm.load(vllm.benjy, BENJY)
    family = children(vllm.beast.pid)
    pid = engines.zygote(vllm.beast)
    async with chat.open(BEAST, **LONG) as dies, chat.open(BENJY, **WHOLE) as lives:
        await started(dies, lives)
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(10):
            check_cut(await dies.rest())
        check_whole(await lives.rest())
    until(lambda: not any(alive(one) for one in family), what="the end of all that the zygote had forked")
    assert vllm.beast.running, "the daemon itself lives"
    assert (await served_again(chat, BEAST)).text == "fish"
    vllm.beast.until_engine()
    vllm.empty()
    vllm.load(vllm.beast, BEAST)
    assert (await served_again(chat, BEAST)).text == "fish", "by the same neuron"


@pytest.mark.timeout(240)
async def test_a_neuron_dies_and_the_other_one_serves_until_it_is_back(cluster: Cluster, chat: Chat) -> None:
    cluster.load(cluster.beast, BEAST)
    cluster.load(cluster.benjy, BENJY)
    family = children(cluster.beast.pid)
    async with chat.open(BEAST, **LONG) as dies, chat.open(BENJY, **WHOLE) as lives:
        await started(dies, lives)
        cluster.beast.kill()
        async with asyncio.timeout(10):
            check_cut(await dies.rest())
        again = await served_again(chat, BEAST)
        assert again.headers["x-cortex-neuron"] == "benjy"
        check_whole(await lives.rest())
    until(lambda: not any(alive(one) for one in family), what="the end of all that the neuron had started")
    cluster.heal()
    cluster.empty()
    cluster.load(cluster.beast, BEAST)
    assert (await served_again(chat, BEAST)).headers["x-cortex-neuron"] == "beast"


async def test_a_neuron_dies_before_an_answer_has_begun(sim: Cluster, chat: Chat) -> None:
    """Nothing was sent yet, so the client gets a plain error, or an answer from elsewhere; never half of one."""
    sim.heal()
    sim.empty()
    sim.load(sim.beast, BEAST)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(chat.ask(BEAST, "Count", stream=False, **LONG))
        await eventually(sim.in_flight, what="work in flight")
        sim.beast.kill()
    answer = task.result()
    assert answer.status == 503, answer
    assert 1 <= int(answer.headers["retry-after"]) <= 30
    assert answer.error is not None


async def test_goal_R42_a_gateway_dies_and_its_requests_end_at_the_neurons(sim: Cluster, chat: Chat) -> None:
    sim.heal()
    sim.empty()
    sim.load(sim.beast, BEAST)
    async with chat.open(BEAST, **LONG) as stream:
        await stream.first()
        sim.gateway.kill()
        until(lambda: sum(r["in_flight"] for _, r in sim.replicas()) == 0, timeout_s=1.0, what="nothing in flight")
        assert not (await stream.rest()).clean
    [(_, before)] = sim.replicas(BEAST)
    sim.gateway.restart()
    sim.gateway.until_follows(2)
    assert (await chat.ask(BEAST, max_tokens=2)).clean
    [(_, after)] = sim.replicas(BEAST)
    assert (after["id"], after["version"]) == (before["id"], before["version"]), "it loaded nothing anew"


async def test_an_engine_that_dies_is_told_in_band(sim: Cluster, chat: Chat) -> None:
    """The simulated engine ends by a word of the prompt."""
    sim.heal()
    sim.empty()
    sim.load(sim.beast, BEAST)
    check_cut(await chat.ask(BEAST, "!die", max_tokens=100))
    assert (await served_again(chat, BEAST)).clean


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_an_engines_own_failure_may_be_tried_again_and_says_nothing_of_its_inside(
    sim: Cluster, chat: Chat, stream: bool
) -> None:
    sim.heal()
    answer = await chat.ask(BEAST, "!error", stream=stream)
    assert answer.status == 503
    assert 1 <= int(answer.headers["retry-after"]) <= 30
    assert answer.error is not None
    assert "the prompt asked" not in answer.error["message"]

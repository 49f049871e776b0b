"""goal_R10, goal_R12: a client that leaves, in whatever phase its request is, leaves no work behind within a second."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.e2e.conftest import BEAST, NARROW, Cluster
from tests.support import engines
from tests.support.chat import Chat
from tests.support.until import eventually

GONE_S = 1.0
LONG: dict[str, Any] = {"max_tokens": 1900, "ignore_eos": True}  # seconds of work for either engine


async def nothing_left(cluster: Cluster) -> None:
    await eventually(lambda: cluster.in_flight() + cluster.waiting() == 0, timeout_s=GONE_S, what="nothing in flight")


@asynccontextmanager
async def asking(chat: Chat, model: str, **body: Any) -> AsyncIterator[asyncio.Task[Any]]:
    """A question under way; leaving drops its connection."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(chat.ask(model, "Count to 9", **LONG, **body))
        yield task
        assert not task.done(), f"it was answered before its client left: {task.result()}"
        task.cancel()


either = pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])


@either
async def test_fixture_50_while_the_model_loads(cluster: Cluster, chat: Chat, stream: bool) -> None:
    async with asking(chat, BEAST, stream=stream):
        await eventually(lambda: "loading" in cluster.states(BEAST), what="a load")
    await eventually(lambda: cluster.waiting() == 0, timeout_s=GONE_S, what="no waiter")
    await eventually(lambda: cluster.states(BEAST) == ["ready"], what="the load to go on to its end")
    await nothing_left(cluster)


@either
async def test_fixture_50_while_it_waits_for_its_turn(cluster: Cluster, chat: Chat, stream: bool) -> None:
    def queued() -> int:
        return cluster.waiting() + sum(int(replica["queue"]) for _, replica in cluster.replicas(NARROW))

    cluster.load(cluster.beast, NARROW)
    async with chat.open(NARROW, "Count to 9", **LONG) as first:
        await first.first()
        async with asking(chat, NARROW, stream=stream):
            await eventually(lambda: queued() == 1, what="a second request that waits")
        await eventually(lambda: queued() == 0, timeout_s=GONE_S, what="no second request")
        said = len(first.answer.text)
        assert len(await first.next()) > said, "the one before it goes on"
    await nothing_left(cluster)


@either
async def test_before_the_first_token(cluster: Cluster, chat: Chat, stream: bool) -> None:
    cluster.load(cluster.beast, BEAST)
    core = 0 if cluster.simulated else engines.engine_core(cluster.beast, BEAST)
    if core:
        os.kill(core, signal.SIGSTOP)  # a prefill that takes its time
    try:
        async with asking(chat, BEAST, stream=stream):
            await eventually(cluster.leases, what="a lease")
        await eventually(lambda: cluster.leases() == 0, timeout_s=GONE_S, what="no lease")
    finally:
        if core:
            os.kill(core, signal.SIGCONT)
    await nothing_left(cluster)


async def test_in_the_middle_of_a_stream(cluster: Cluster, chat: Chat) -> None:
    cluster.load(cluster.beast, BEAST)
    async with chat.open(BEAST, "Count to 9", **LONG) as stream:
        await stream.first()
        assert cluster.in_flight() > 0
    await nothing_left(cluster)


async def test_in_the_middle_of_an_answer_that_is_not_streamed(cluster: Cluster, chat: Chat) -> None:
    cluster.load(cluster.beast, BEAST)
    async with asking(chat, BEAST, stream=False):
        if cluster.simulated:
            await eventually(cluster.leases, what="a lease")
        else:
            await eventually(lambda: engines.running(cluster.beast), what="vLLM at work")
    await nothing_left(cluster)


async def test_many_leave_at_once(cluster: Cluster, chat: Chat) -> None:
    """Half of them go: the others are answered, and nothing is left of those that went."""
    cluster.load(cluster.beast, BEAST)
    async with asyncio.TaskGroup() as group:
        stay = [group.create_task(chat.ask(BEAST, f"Say {n}", max_tokens=4)) for n in range(10)]
        leave = [group.create_task(chat.ask(BEAST, f"Say {n}", **LONG)) for n in range(10)]
        await eventually(cluster.in_flight, what="work in flight")
        for task in leave:
            task.cancel()
    assert all(task.result().clean for task in stay)
    await nothing_left(cluster)


async def test_a_client_that_left_is_counted_as_one_that_left(sim: Cluster, chat: Chat) -> None:
    sim.empty()
    sim.load(sim.beast, BEAST)
    before = sim.gateway.metric("cortex_client_disconnects_total", model=BEAST)
    async with chat.open(BEAST, "Count to 9", **LONG) as stream:
        await stream.first()
    await eventually(
        lambda: sim.gateway.metric("cortex_client_disconnects_total", model=BEAST) == before + 1, what="it counted"
    )


async def test_what_was_done_for_a_client_that_left_is_counted_exactly(sim: Cluster, chat: Chat) -> None:
    """The gateway saw some content and no usage; what it counts is what the neuron tells."""
    names = ["cortex_prompt_tokens_total", "cortex_completion_tokens_total", "cortex_client_disconnects_total"]

    def counted() -> list[float]:
        return [sim.gateway.metric(name, model=BEAST) for name in names]

    sim.empty()
    sim.load(sim.beast, BEAST)
    before = counted()
    async with chat.open(BEAST, "Count to 9", **LONG) as stream:
        gateway = stream.answer.headers["x-request-id"][len("req_") : -8]
        await stream.first()
    await eventually(lambda: counted()[2] == before[2] + 1, what="its end")
    told = sim.beast.get(f"/finished?gateway={gateway}")[-1]
    assert told["prompt_tokens"] == len("Count to 9".split())
    assert told["completion_tokens"] > 0
    assert counted() == [before[0] + told["prompt_tokens"], before[1] + told["completion_tokens"], before[2] + 1]

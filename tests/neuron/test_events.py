"""The neuron's events: a snapshot first, numbers that rise, and nobody skips one."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from cortex_core.neuron_api import FinishedEvent, Gauges, Report
from neuron.supervisor.events import BEHIND_MOST, FINISHED_KEPT, Closed, Hub, TooSlow
from tests.support.until import until_async


def report(hub: Hub) -> Report:
    return Report(name="beast", instance_id="i", seq=hub.seq)


def finished(hub: Hub, gateway: str) -> FinishedEvent:
    return FinishedEvent(
        seq=hub.number(),
        gateway=gateway,
        request_id="r",
        model="m",
        prompt_tokens=1,
        cached_tokens=0,
        completion_tokens=1,
        outcome="stop",
        seconds=1.0,
    )


async def test_the_snapshot_comes_first_and_what_follows_is_newer() -> None:
    hub = Hub()
    hub.number()
    reader = hub.subscribe("g", lambda: report(hub))
    hub.heartbeat(Gauges(seq=hub.number()))
    events = await reader.next()
    assert [name for name, _ in events] == ["snapshot", "heartbeat"]
    seqs = [msgspec.json.decode(data)["seq"] for _, data in events]
    assert seqs == [1, 2]


async def test_usage_goes_to_the_gateway_whose_request_it_was() -> None:
    hub = Hub()
    mine, other = hub.subscribe("mine", lambda: report(hub)), hub.subscribe("other", lambda: report(hub))
    hub.finished(finished(hub, "mine"))
    assert [name for name, _ in await mine.next()] == ["snapshot", "finished"]
    assert [name for name, _ in await other.next()] == ["snapshot"]
    assert [event.gateway for event in hub.finished_after("mine", 0)] == ["mine"]
    assert hub.finished_after("mine", hub.seq) == []


def test_what_is_kept_of_usage_is_bounded() -> None:
    hub = Hub()
    for _ in range(FINISHED_KEPT + 10):
        hub.finished(finished(hub, "g"))
    kept = hub.finished_after("g", 0)
    assert (len(kept), kept[0].seq) == (FINISHED_KEPT, 11)


async def test_who_cannot_follow_is_cut_off_and_never_skips() -> None:
    hub = Hub()
    reader = hub.subscribe("slow", lambda: report(hub))
    for _ in range(BEHIND_MOST):
        hub.heartbeat(Gauges(seq=hub.number()))
    with pytest.raises(TooSlow):
        await reader.next()
    hub.unsubscribe(reader)
    assert hub.readers == 0


async def test_a_reader_waits_and_is_woken_and_ended() -> None:
    hub = Hub()
    reader = hub.subscribe("g", lambda: report(hub))
    await reader.next()
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(reader.next())
        await until_async(lambda: reader._waiter is not None)
        hub.snapshot(lambda: report(hub))
    assert [name for name, _ in waiting.result()] == ["snapshot"]
    hub.close()
    with pytest.raises(Closed):
        await reader.next()

"""The door of a replica: leases, small queues served round robin by gateway, and what happens when it closes."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from neuron.supervisor.gate import Gate
from neuron.supervisor.refusals import Refused
from tests.support.until import until_async


def opened(max_in_flight: int = 1, max_queue_depth: int = 2) -> Gate:
    gate = Gate()
    gate.open(max_in_flight, max_queue_depth)
    return gate


async def test_a_new_gate_is_closed() -> None:
    with pytest.raises(Refused, match="loading"):
        await Gate().enter("a", 1)


async def test_as_many_get_in_as_there_are_slots() -> None:
    gate = opened(max_in_flight=2, max_queue_depth=0)
    await gate.enter("a", 1)
    await gate.enter("a", 1)
    with pytest.raises(Refused, match="full"):
        await gate.enter("a", 1)
    gate.leave()
    await gate.enter("a", 1)
    assert gate.in_flight == 2


@pytest.mark.parametrize(
    ("posted", "expected"),
    [({}, "near far near far near"), ({"far": 30}, "far far near near near"), ({"near": 30}, "near near near far far")],
    ids=["alike", "much waits at the far one", "much waits at the near one"],
)
async def test_freed_slots_are_shared_by_what_waits(posted: dict[str, int], expected: str) -> None:
    gate, served = opened(max_queue_depth=3), list[str]()
    gate.posted = posted
    await gate.enter("near", 1)

    async def come(gateway: str) -> None:
        await gate.enter(gateway, 5)
        served.append(gateway)

    def served_are(count: int) -> bool:
        return len(served) == count

    async with asyncio.TaskGroup() as group:
        for gateway in ["near", "near", "near", "far", "far"]:
            group.create_task(come(gateway))
        await until_async(lambda: gate.queue == 5)
        for count in range(1, 6):
            gate.leave()
            await until_async(partial(served_are, count))
    assert " ".join(served) == expected


async def test_a_newcomer_does_not_overtake_who_waits() -> None:
    gate = opened()
    await gate.enter("a", 1)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(gate.enter("a", 5))
        await until_async(lambda: gate.queue == 1)
        gate.leave()  # granted, though not yet awake
        newcomer = group.create_task(gate.enter("b", 5))
        await until_async(lambda: gate.queue == 1)
        assert waiting.done()
        assert not newcomer.done()
        gate.leave()


async def test_a_queue_is_bounded_for_each_gateway_alone() -> None:
    gate = opened(max_queue_depth=1)
    await gate.enter("a", 1)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(gate.enter("a", 5))
        await until_async(lambda: gate.queue == 1)
        with pytest.raises(Refused, match="full"):
            await gate.enter("a", 1)
        other = group.create_task(gate.enter("b", 5))
        await until_async(lambda: gate.queue == 2)
        gate.leave()
        await until_async(waiting.done)
        gate.leave()
        await until_async(other.done)


async def test_waiting_has_an_end() -> None:
    gate = opened()
    await gate.enter("a", 1)
    with pytest.raises(Refused, match="deadline"):
        await gate.enter("a", 0.01)
    assert gate.queue == 0


async def test_who_leaves_the_queue_leaves_nothing() -> None:
    gate = opened()
    await gate.enter("a", 1)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(gate.enter("a", 5))
        await until_async(lambda: gate.queue == 1)
        waiting.cancel()
    assert (gate.queue, gate.in_flight) == (0, 1)
    gate.leave()
    assert not gate.demand


async def test_granted_and_cancelled_in_one_turn_gives_the_lease_back() -> None:
    gate = opened()
    await gate.enter("a", 1)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(gate.enter("a", 5))
        await until_async(lambda: gate.queue == 1)
        gate.leave()
        waiting.cancel()
    assert gate.in_flight == 0


async def test_a_closing_gate_sends_away_who_waits_and_lets_finish_who_is_in() -> None:
    gate, sent_away = opened(), list[str]()
    await gate.enter("a", 1)

    async def come() -> None:
        try:
            await gate.enter("a", 5)
        except Refused as refused:
            sent_away.append(refused.refusal.code)

    async with asyncio.TaskGroup() as group:
        group.create_task(come())
        await until_async(lambda: gate.queue == 1)
        emptied = group.create_task(gate.until_empty())
        gate.close(Refused("draining", "it drains"))
        await until_async(lambda: sent_away == ["draining"])
        assert not emptied.done()
        gate.leave()
    with pytest.raises(Refused, match="draining"):
        await gate.enter("a", 1)
    gate.open(1, 1)
    await gate.enter("a", 1)

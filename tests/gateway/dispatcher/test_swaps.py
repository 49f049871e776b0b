"""Swaps: what a load says, how its end is believed, and what a refusal teaches."""

from __future__ import annotations

import asyncio

import pytest
from msgspec import structs

from cortex_core.errors import CortexError
from cortex_core.fleet import Device, Known, Profile, Share, State
from cortex_core.neuron_api import Victim
from cortex_gateway.dispatch.commands import Unreachable
from cortex_gateway.dispatch.dispatcher import SwapRecord
from cortex_gateway.dispatch.swaps import DRAIN_S
from tests.gateway.dispatcher.stand import Stand, failure, newer, play, replica, settle


def test_a_load_names_what_it_was_decided_on() -> None:
    async def story(stand: Stand) -> None:
        stand.says("n1", replica("r2", "m2", version=7, idle_s=100))
        asking = stand.ask()
        await settle()
        [load] = stand.loads
        assert load.neuron == "n1"
        assert load.request.instance_id == "n1.1"
        assert load.request.operation_id.startswith("op-")
        assert load.request.placement == (Share("cuda:0", 16_000),)
        assert load.request.evict == (Victim(replica="r2", version=7, mode="idle", drain_s=DRAIN_S),)
        asking.leave()

    play(story)


def test_who_waited_knows_what_its_load_was_chosen_among() -> None:
    """With every candidate's reason and price, for the request's record."""

    async def story(stand: Stand) -> None:
        learned = (Known(model="m2", digest=Profile(id="m2").digest, device_kind="cuda", uses=3.0),)
        stand.says("n1", replica("r2", "m2", idle_s=100), known=learned)
        stand.says("n2", replica("r3", "m2", pinned=True))
        asking = stand.ask()
        await settle()
        stand.loads[0].done(replica())
        await settle()
        lease = await asking.end()
        told = [candidate.place() for candidate in lease.considered]
        assert [(place.neuron, place.now, place.reason, place.must_leave, place.price) for place in told] == [
            ("n1", True, "fits when what is idle leaves", ("m2",), 15.0),
            ("n2", False, "needs 16000 MB, and pinned replicas hold it", (), 0.0),
        ]

    play(story, neurons=2)


def test_a_busy_resident_whose_turn_is_over_drains() -> None:
    async def story(stand: Stand) -> None:
        stand.says("n1", replica("r2", "m2", in_flight=1, evictable_in_s=3))
        asking = stand.ask()
        await settle()
        assert stand.loads == []
        await asyncio.sleep(4.1)
        assert [victim.mode for victim in stand.loads[0].request.evict] == ["drain"]
        asking.leave()

    play(story)


def test_its_end_is_believed_before_any_report() -> None:
    async def story(stand: Stand) -> None:
        asking = stand.ask()
        await settle()
        stand.loads[0].done(replica())
        await settle()
        assert asking.is_served()
        await asking.end()
        assert stand.swaps == [SwapRecord(model="m1", neuron="n1", seconds=stand.swaps[0].seconds)]

    play(story)


def test_an_old_answer_does_not_overwrite_a_newer_report() -> None:
    async def story(stand: Stand) -> None:
        asking = stand.ask()
        await settle()
        stand.says("n1", replica(version=5, state=State.DRAINING))
        stand.loads[0].done(replica(version=4))
        await settle()
        assert not asking.is_served()
        asking.leave()

    play(story)


def test_outrun_is_decided_again_on_the_present_state_and_not_at_once() -> None:
    """Each refusal doubles the pause, so that a disagreement never becomes a hot loop."""

    async def story(stand: Stand) -> None:
        asking = stand.ask()
        for _ in range(60):
            await asyncio.sleep(0.5)
            if not stand.loads[-1].answer.done():
                stand.loads[-1].refused("outrun", retry_in_s=0.0)
        assert 5 <= len(stand.loads) <= 14
        asking.leave()

    play(story)


def test_the_state_that_came_with_a_refusal_is_believed() -> None:
    async def story(stand: Stand) -> None:
        asking = stand.ask()
        await settle()
        stand.loads[0].refused("outrun", replicas=(replica(),))
        await settle()
        assert asking.is_served(), "another gateway had loaded it"
        await asking.end()

    play(story)


def test_a_refusal_teaches_how_much_the_model_needs() -> None:
    """Nobody wrote it down and the neuron knows: the next attempt lets go what must go."""

    async def story(stand: Stand) -> None:
        stand.says("n1", replica("r2", "m2", idle_s=100))
        asking = stand.ask()
        await settle()
        assert (stand.loads[0].request.placement, stand.loads[0].request.evict) == ((), ())
        stand.loads[0].refused("insufficient_memory", need_mb=12_000, free_mb=8_000)
        await asyncio.sleep(1.1)
        assert stand.loads[1].request.placement == (Share("cuda:0", 12_000),)
        assert [victim.replica for victim in stand.loads[1].request.evict] == ["r2"]
        asking.leave()

    play(story, needs_mb={"m1": 0, "m2": 16_000})


def test_what_cannot_fit_on_one_neuron_is_tried_on_a_larger_one() -> None:
    async def story(stand: Stand) -> None:
        larger = stand.dispatcher.fleet.neurons["n1"].devices[0]
        stand.says("n2", devices=(_with_memory(larger, 48_000),))
        asking = stand.ask()
        await settle()
        where = stand.loads[0].neuron
        assert where == "n2", "more free memory is the better place"
        stand.says("n2", devices=(_with_memory(larger, 48_000),), cordoned=True)
        stand.loads[0].refused("cordoned")
        await asyncio.sleep(1.1)
        assert stand.loads[1].neuron == "n1"
        stand.loads[1].refused("model_cannot_fit", need_mb=30_000, free_mb=24_000)
        await asyncio.sleep(1.1)
        assert asking.error is None, "it fits on n2, which is only cordoned"
        stand.says("n2", devices=(_with_memory(larger, 48_000),))
        await asyncio.sleep(5.1)
        assert stand.loads[2].neuron == "n2"
        asking.leave()

    play(story, neurons=2, needs_mb={"m1": 0})


def _with_memory(device: Device, memory_mb: int) -> Device:
    return structs.replace(device, memory_mb=memory_mb)


def test_what_fits_nowhere_is_told_to_everybody_with_the_numbers() -> None:
    async def story(stand: Stand) -> None:
        asked = [stand.ask(), stand.ask()]
        await settle()
        stand.loads[0].refused("model_cannot_fit", need_mb=30_000, free_mb=24_000)
        await settle()
        for asking in asked:
            assert isinstance(asking.error, CortexError)
            assert asking.error.kind == "model_cannot_fit"
            assert asking.error.details["need_mb"] == 30_000
        later = stand.ask()
        await settle()
        assert later.error is not None
        assert len(stand.loads) == 1, "it is known now"

    play(story, needs_mb={"m1": 0})


def test_a_bad_profile_is_told_to_everybody() -> None:
    async def story(stand: Stand) -> None:
        asking = stand.ask()
        await settle()
        stand.loads[0].refused("bad_request", field="profile.engine")
        await settle()
        assert isinstance(asking.error, CortexError)
        assert asking.error.kind == "model_unusable"

    play(story)


def test_an_unreachable_neuron_is_left_alone_for_a_second() -> None:
    async def story(stand: Stand) -> None:
        asking = stand.ask()
        await settle()
        stand.loads[0].answer.set_exception(Unreachable())
        await asyncio.sleep(0.5)
        assert len(stand.loads) == 1
        await asyncio.sleep(1.6)
        assert len(stand.loads) == 2
        assert stand.swaps[0].error == "unreachable"
        asking.leave()

    play(story)


def test_a_failed_load_is_told_to_who_waits_with_when_it_is_tried_again() -> None:
    async def story(stand: Stand) -> None:
        asking = stand.ask()
        await settle()
        stand.loads[0].refused("load_failed", failure=failure(retry_in_s=5), retry_in_s=5.0)
        await settle()
        assert isinstance(asking.error, CortexError)
        assert asking.error.kind == "load_failed"
        assert asking.error.retry_after_s == pytest.approx(5, abs=0.1)

    play(story)


def test_a_load_that_failed_for_the_device_is_tried_once_more_elsewhere() -> None:
    async def story(stand: Stand) -> None:
        asking = stand.ask()
        await settle()
        stand.loads[0].refused("load_failed", failure=failure("device"), retry_in_s=5.0)
        await settle()
        assert {load.neuron for load in stand.loads} == {"n1", "n2"}
        stand.loads[1].refused("load_failed", failure=failure("neuron"), retry_in_s=5.0)
        await settle()
        assert isinstance(asking.error, CortexError)
        assert asking.error.kind == "load_failed"

    play(story, neurons=2)


def test_a_model_that_is_asked_for_while_it_unloads_gets_a_row_of_its_own() -> None:
    async def story(stand: Stand) -> None:
        stand.says("n1", leaving := replica(state=State.UNLOADING))
        asking = stand.ask()
        await settle()
        assert stand.loads == [], "its device is busy"
        stand.says("n1", newer(leaving, state=State.ABSENT))
        await settle()
        stand.loads[0].done(replica("r3"))
        await settle()
        assert (await asking.end()).replica.id == "r3"

    play(story)


def test_a_victim_takes_no_new_requests_from_the_moment_it_is_chosen() -> None:
    async def story(stand: Stand) -> None:
        stand.says("n1", replica("r2", "m2", idle_s=100))
        stand.ask("m1")
        late = stand.ask("m2")
        await settle()
        assert not late.is_served()
        stand.loads[0].refused("busy", replicas=(replica("r2", "m2", version=2, in_flight=1, evictable_in_s=60),))
        await settle()
        assert late.is_served(), "the swap did not come about"
        await late.end()

    play(story)


def test_what_is_served_now_is_served_before_anything_is_evicted() -> None:
    """Waiter by waiter, the first would evict what the second can use."""

    async def story(stand: Stand) -> None:
        stand.says("n1", loading := replica("r2", "m2", state=State.LOADING))
        first, second = stand.ask("m1"), stand.ask("m2")
        await settle()
        assert stand.loads == []
        stand.says("n1", newer(loading, state=State.READY, evictable_in_s=5))
        await settle()
        assert second.is_served()
        assert stand.loads == []
        first.leave()
        await second.end()

    play(story)


def test_after_the_end_of_its_run_nothing_is_started() -> None:
    async def story(stand: Stand) -> None:
        stand.says("n1", replica(max_in_flight=1, idle_s=100))
        holder, waiter = stand.ask("m1"), stand.ask("m2")
        await settle()
        for task in asyncio.all_tasks():
            if task.get_name() == "dispatcher":
                task.cancel()
        await settle()
        before = len(stand.loads)
        await holder.end()
        assert holder.error is None
        assert len(stand.loads) == before
        waiter.leave()

    play(story)

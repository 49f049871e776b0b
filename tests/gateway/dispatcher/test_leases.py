"""Leases: granted, given back, given up, and every moment at which two of these meet."""

from __future__ import annotations

import asyncio

import pytest

from cortex_core.errors import CortexError
from cortex_core.fleet import State
from cortex_core.neuron_api import Refusal
from cortex_gateway.dispatch.dispatcher import Lease, Rules
from tests.gateway.dispatcher.stand import Stand, failure, newer, play, replica, settle


def kind_of(error: Exception | None) -> str:
    assert isinstance(error, CortexError), error
    return error.kind


def test_a_ready_replica_is_leased_at_once_and_given_back() -> None:
    async def story(stand: Stand) -> None:
        stand.says("n1", replica())
        asking = stand.ask()
        await settle()
        assert (asking.is_served(), stand.leased()) == (True, 1)
        lease = await asking.end()
        assert (lease.cold, lease.waited_s) == (False, 0.0)
        assert stand.leased() == 0
        assert stand.loads == []

    play(story)


def test_one_load_serves_everybody_who_waits() -> None:
    async def story(stand: Stand) -> None:
        asked = [stand.ask() for _ in range(5)]
        await settle()
        assert [load.request.model for load in stand.loads] == ["m1"]
        await asyncio.sleep(7)
        stand.loads[0].done(replica(max_in_flight=8))
        await settle()
        leases = [await asking.end() for asking in asked]
        assert all(lease.cold for lease in leases)
        assert [round(lease.waited_s) for lease in leases] == [7] * 5
        assert stand.leased() == 0

    play(story)


def test_no_more_leases_than_slots_and_the_rest_in_order() -> None:
    async def story(stand: Stand) -> None:
        stand.says("n1", replica(max_in_flight=2))
        asked = [stand.ask(caller="one") for _ in range(4)]
        await settle()
        assert [asking.is_served() for asking in asked] == [True, True, False, False]
        await asked[1].end()
        assert [asking.is_served() for asking in asked] == [True, True, True, False]
        for index in (0, 2, 3):
            await asked[index].end()
        assert stand.leased() == 0

    play(story)


@pytest.mark.parametrize("seed", range(8))
def test_granted_and_cancelled_in_the_same_turn_of_the_loop(seed: int) -> None:
    async def story(stand: Stand) -> None:
        leaver, other = stand.ask(), stand.ask()
        await settle()
        stand.loads[0].done(replica(max_in_flight=1))
        stand.says("n1", replica(max_in_flight=1))  # grants to the first
        leaver.leave()
        await settle()
        assert not leaver.is_served()
        assert other.is_served()
        await other.end()
        assert stand.leased() == 0

    play(story, seed=seed)


@pytest.mark.parametrize("seed", range(8))
def test_granted_in_the_instant_its_time_is_over(seed: int) -> None:
    async def story(stand: Stand) -> None:
        asking = stand.ask(hold_s=10)
        at = asyncio.get_running_loop().time()
        asyncio.get_running_loop().call_at(at + 10, stand.says, "n1", replica())
        await asyncio.sleep(10)
        await settle()
        if asking.is_served():
            await asking.end()
        else:
            assert kind_of(asking.error) in {"loading", "no_capacity"}
        assert stand.leased() == 0

    play(story, seed=seed)


def test_one_who_leaves_while_waiting_leaves_nothing_and_the_load_goes_on() -> None:
    async def story(stand: Stand) -> None:
        asking = stand.ask()
        await settle()
        asking.leave()
        await settle()
        assert stand.dispatcher.waiting() == {}
        stand.loads[0].done(replica())
        await settle()
        assert stand.leased() == 0
        later = stand.ask()
        await settle()
        assert later.is_served()
        await later.end()
        assert len(stand.loads) == 1

    play(story)


def test_a_replica_that_goes_between_grant_and_waking_is_waited_for_again() -> None:
    async def story(stand: Stand) -> None:
        stand.says("n1", ready := replica(max_in_flight=1))
        first, second = stand.ask(), stand.ask()
        await settle()
        assert first._over is not None
        first._over.set()
        await asyncio.sleep(0)  # the lease is given back, and granted to the second in the same breath
        stand.says("n1", instance="n1.2")
        await settle()
        assert not second.is_served()
        assert len(stand.loads) == 1
        stand.loads[0].done(newer(ready, id="r2"))
        await settle()
        lease = await second.end()
        assert lease.replica.id == "r2"
        assert stand.leased() == 0

    play(story)


def test_a_refused_request_is_decided_again_on_what_the_neuron_said() -> None:
    async def story(stand: Stand) -> None:
        stand.says("n1", replica())
        lease = await _leased_and_ended(stand)
        stand.dispatcher.reject(lease, Refusal(code="not_loaded", message="gone"))
        again = stand.ask(arrived=lease.want.arrived)
        await settle()
        assert not again.is_served()
        assert [load.request.model for load in stand.loads] == ["m1"]
        again.leave()

    play(story)


async def _leased_and_ended(stand: Stand) -> Lease:
    asking = stand.ask()
    await settle()
    return await asking.end()


def test_a_full_replica_is_asked_again_after_a_pause_even_by_who_holds_nothing_there() -> None:
    async def story(stand: Stand) -> None:
        stand.says("n1", replica(max_in_flight=2, in_flight=2))
        for _ in range(3):
            lease = await _leased_and_ended(stand)
            stand.dispatcher.reject(lease, Refusal(code="full", message="full", retry_in_s=1.0))
            asking = stand.ask()
            await settle()
            assert not asking.is_served()
            await asyncio.sleep(2.1)
            assert asking.is_served()
            await asking.end()

    play(story)


def test_a_request_that_was_refused_until_its_time_was_over_is_told_so() -> None:
    async def story(stand: Stand) -> None:
        stand.says("n1", replica())
        await asyncio.sleep(20)
        asking = stand.ask(arrived=stand.now() - 11, hold_s=10)
        await settle()
        assert kind_of(asking.error) == "no_capacity"
        assert stand.leased() == 0

    play(story)


# ---------------------------------------------------------------- what one is told whose time is over


def test_told_that_it_loads_with_phase_and_time() -> None:
    async def story(stand: Stand) -> None:
        loading = replica(state=State.LOADING, phase="weights", progress=0.4, expected_s=30.0)
        stand.says("n1", loading)
        asking = stand.ask(hold_s=5)
        await asyncio.sleep(5.1)
        assert kind_of(asking.error) == "loading"
        assert str(asking.error) == "m1 is loading (weights, 40%, about 30 s left)"

    play(story)


def test_told_that_there_is_no_room() -> None:
    async def story(stand: Stand) -> None:
        stand.says("n1", replica("r2", "m2", pinned=False, in_flight=1, evictable_in_s=1000))
        asking = stand.ask(hold_s=5)
        await asyncio.sleep(5.1)
        assert kind_of(asking.error) == "no_capacity"
        assert isinstance(asking.error, CortexError)
        assert 1 <= (asking.error.retry_after_s or 0) <= 30

    play(story)


def test_told_at_once_that_the_model_is_unknown() -> None:
    async def story(stand: Stand) -> None:
        asking = stand.ask("nobody")
        await settle()
        assert kind_of(asking.error) == "model_not_found"

    play(story)


def test_told_at_once_that_it_failed_and_when_to_come_again() -> None:
    async def story(stand: Stand) -> None:
        stand.says("n1", failures=(failure(retry_in_s=40),))
        asking = stand.ask()
        await settle()
        assert kind_of(asking.error) == "load_failed"
        assert isinstance(asking.error, CortexError)
        assert asking.error.retry_after_s == pytest.approx(40, abs=0.1)

    play(story)


def test_told_that_the_queue_is_full() -> None:
    async def story(stand: Stand) -> None:
        asked = [stand.ask() for _ in range(4)]
        await settle()
        assert [kind_of(asking.error) for asking in asked if asking.error] == ["queue_full"]
        for asking in asked:
            asking.leave()

    play(story, rules=Rules(max_waiters=3))


def test_the_queues_of_all_models_are_bounded_together() -> None:
    async def story(stand: Stand) -> None:
        asked = [stand.ask(f"m{number}") for number in (1, 1, 2, 2, 3, 3, 4, 4, 5)]
        await settle()
        assert [kind_of(asking.error) for asking in asked if asking.error] == ["queue_full"]
        assert asked[-1].error is not None
        for asking in asked:
            asking.leave()

    play(story, rules=Rules(max_waiters=2), needs_mb={f"m{number}": 16_000 for number in range(1, 6)})


# ---------------------------------------------------------------- tickets


def test_who_is_told_to_come_again_is_still_demand() -> None:
    """Room appears when nobody waits any more: the load for the one who was told to come again begins."""

    async def story(stand: Stand) -> None:
        stand.says("n1", busy := replica("r2", "m2", in_flight=1, evictable_in_s=1000))
        asking = stand.ask(hold_s=5, caller="agent")
        await asyncio.sleep(5.1)
        assert kind_of(asking.error) == "no_capacity"
        assert stand.loads == []
        stand.says("n1", newer(busy, state=State.ABSENT))
        await settle()
        assert [load.request.model for load in stand.loads] == ["m1"]
        stand.loads[0].done(replica())

    play(story)


def test_a_ticket_ends_after_ninety_seconds() -> None:
    async def story(stand: Stand) -> None:
        stand.says("n1", busy := replica("r2", "m2", in_flight=1, evictable_in_s=1000))
        stand.ask(hold_s=5, caller="agent")
        await asyncio.sleep(5 + 92)
        stand.says("n1", newer(busy, state=State.ABSENT))
        await asyncio.sleep(3)
        assert stand.loads == []

    play(story)

"""Loads, unloads and what lies between: idempotent, atomic, and refused with the state that speaks against them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cortex_core.fleet import State
from cortex_core.neuron_api import Operation
from tests.neuron.contract.subject import Events, Subject, real, rest_of
from tests.support.until import until_async


@real
async def test_a_model_is_loaded_answers_and_is_unloaded(subject: Subject) -> None:
    replica = await subject.load(subject.models[0])
    assert replica.state is State.READY
    answer = await subject.ask(replica)
    assert answer.status == 200
    assert answer.json()["model"] == subject.models[0]
    unloaded = await subject.command("/models/unload", replica=replica.id, version=replica.version)
    assert (unloaded.status, unloaded.as_(Operation).status) == (200, "done")
    assert (await subject.report()).replicas == ()


async def test_the_originals_bodies_are_understood(subject: Subject) -> None:
    model = subject.models[0]
    assert (await subject.command("/models/load", model_id=model)).status == 200
    assert (await subject.command("/models/unload", model_id=model)).status == 200
    assert (await subject.command("/models/unload", model_id=model)).status == 404


@real
async def test_loads_of_one_model_are_one_load(subject: Subject) -> None:
    answers = await asyncio.gather(*(subject.try_load(subject.models[0]) for _ in range(5)))
    assert [answer.status for answer in answers] == [200] * 5
    operations = [answer.as_(Operation) for answer in answers]
    assert sorted(operation.joined for operation in operations) == [False, True, True, True, True]
    assert len({operation.replica.id for operation in operations if operation.replica}) == 1
    [replica] = (await subject.report()).replicas
    again = (await subject.try_load(subject.models[0])).as_(Operation)
    assert again.replica is not None
    assert again.replica.id == replica.id


async def test_a_command_sent_again_finds_its_operation(subject: Subject) -> None:
    first = await subject.load(subject.models[0], operation_id="op-1")
    second = await subject.load(subject.models[0], operation_id="op-1")
    assert first.id == second.id
    other = await subject.try_load(subject.models[1], operation_id="op-1")
    assert (other.status, other.refusal.code, other.refusal.field) == (422, "bad_request", "operation_id")
    seen = await subject.get("/operations/op-1", Operation)
    assert (seen.kind, seen.status, seen.model) == ("load", "done", subject.models[0])


async def test_without_waiting_the_operation_is_followed(subject: Subject) -> None:
    answer = await subject.try_load(subject.models[0], operation_id="op-2", wait=False)
    assert (answer.status, answer.as_(Operation).status) == (202, "running")

    async def done() -> bool:
        return (await subject.get("/operations/op-2", Operation)).status == "done"

    await until_async(done)


@real
async def test_progress_is_streamed_to_the_result(subject: Subject) -> None:
    body = b'{"model_id": "%b"}' % subject.models[0].encode()
    accept = [(b"accept", b"text/event-stream")]
    async with subject.client.request("POST", "/models/load", headers=accept, body=body) as response:
        assert response.status == 200
        events, operations = Events(response), []
        while (event := await events.next()).event == "operation":
            operations.append(event)
        assert event.event == "result"
        assert await rest_of(response) == (b"", True)
    assert operations


async def test_a_caller_whose_time_is_over_does_not_end_the_load(subject: Subject) -> None:
    answer = await subject.try_load(subject.models[0], deadline_s=0.001)
    assert (answer.status, answer.refusal.code, answer.refusal.retry) == (504, "deadline", "here")
    await subject.until_state(subject.models[0], "ready")


@real
async def test_a_swap_is_one_operation(subject: Subject) -> None:
    first = await subject.load(subject.models[0])
    await subject.load(subject.models[1])
    evict = [{"replica": first.id, "version": first.version}]
    third = await subject.load(subject.models[2], evict=evict)
    assert {r.id for r in (await subject.report()).replicas if r.id != third.id} != {first.id}
    assert await subject.replica(subject.models[0]) is None


async def test_no_room_is_said_with_the_numbers(subject: Subject) -> None:
    await subject.load(subject.models[0])
    await subject.load(subject.models[1])
    answer = await subject.try_load(subject.models[2])
    refusal = answer.refusal
    assert (answer.status, refusal.code, refusal.executed) == (503, "insufficient_memory", "no")
    assert (refusal.need_mb, refusal.free_mb) == (subject.replica_mb, 500)


async def test_what_can_never_fit_is_said_at_once_and_evicts_nobody(subject: Subject) -> None:
    first = await subject.load(subject.models[0])
    profile = subject.profile(subject.models[1]) | {"vram_mb": 99_000}
    evict = [{"replica": first.id, "version": first.version}]
    answer = await subject.command("/models/load", model=subject.models[1], profile=profile, evict=evict)
    assert (answer.status, answer.refusal.code) == (400, "model_cannot_fit")
    assert answer.refusal.need_mb == 99_000
    assert (await subject.until_state(subject.models[0], "ready")).version == first.version


async def test_an_old_picture_is_outrun_and_gets_the_new_one(subject: Subject) -> None:
    first = await subject.load(subject.models[0])
    for evict in ({"replica": first.id, "version": first.version - 1}, {"replica": "gone", "version": 1}):
        answer = await subject.try_load(subject.models[1], evict=[evict])
        assert (answer.status, answer.refusal.code) == (409, "outrun")
    assert await subject.replica(subject.models[1]) is None
    answer = await subject.try_load(subject.models[1], instance_id="another")
    assert (answer.status, answer.refusal.code) == (409, "outrun")
    assert answer.refusal.instance_id == (await subject.report()).instance_id
    answer = await subject.command("/models/unload", replica=first.id, version=first.version + 1)
    assert (answer.status, answer.refusal.code) == (409, "outrun")
    assert [replica.id for replica in answer.refusal.replicas] == [first.id]


async def test_a_victim_with_a_lease_is_not_idle(subject: Subject) -> None:
    first = await subject.load(subject.models[0])
    async with subject.streaming(first):
        evict = [{"replica": first.id, "version": first.version, "mode": "idle"}]
        answer = await subject.try_load(subject.models[1], evict=evict)
        assert (answer.status, answer.refusal.code) == (409, "busy")
        assert (await subject.until_state(subject.models[0], "ready")).id == first.id


@real
async def test_a_drained_victim_finishes_its_streams_and_then_goes(subject: Subject) -> None:
    first = await subject.load(subject.models[0])
    await subject.load(subject.models[1])
    async with subject.streaming(first, tokens=100) as response, asyncio.TaskGroup() as group:
        first = await subject.until_state(subject.models[0], "ready")
        evict = [{"replica": first.id, "version": first.version, "mode": "drain", "drain_s": 30}]
        swap = group.create_task(subject.try_load(subject.models[2], evict=evict))
        body, clean = await rest_of(response)
        assert clean
        assert body.endswith(b"data: [DONE]\n\n")
    assert swap.result().status == 200
    assert await subject.replica(subject.models[0]) is None


async def test_a_drain_that_takes_too_long_opens_the_gate_again(subject: Subject) -> None:
    first = await subject.load(subject.models[0])
    async with subject.streaming(first):
        evict = [{"replica": first.id, "version": first.version, "mode": "drain", "drain_s": 0.2}]
        answer = await subject.try_load(subject.models[1], evict=evict)
        assert (answer.status, answer.refusal.code) == (409, "drain_timeout")
        again = await subject.until_state(subject.models[0], "ready")
        assert (again.id, again.in_flight) == (first.id, 1)
        assert (await subject.ask(again)).status == 200
    assert await subject.replica(subject.models[1]) is None


@real
async def test_unload_is_refused_while_busy_unless_it_drains_or_cuts(subject: Subject) -> None:
    replica = await subject.load(subject.models[0])
    async with subject.streaming(replica) as response:
        answer = await subject.command("/models/unload", replica=replica.id, mode="idle")
        assert (answer.status, answer.refusal.code) == (409, "busy")
        answer = await subject.command("/models/unload", replica=replica.id, mode="drain", drain_s=0.1)
        assert (answer.status, answer.refusal.code) == (409, "drain_timeout")
        answer = await subject.command("/models/unload", replica=replica.id, mode="cut")
        assert answer.status == 200
        _, clean = await rest_of(response)
        assert not clean
    assert (await subject.report()).replicas == ()


async def test_two_swaps_for_one_victim_are_one_swap(subject: Subject) -> None:
    """The memory is promised at once: who comes second is told that it was outrun, and by what."""
    first = await subject.load(subject.models[0], options={"vram_mb": 2400})
    evict = [{"replica": first.id, "version": first.version}]
    big = {"vram_mb": 2400}
    answers = await asyncio.gather(
        *(
            subject.command("/models/load", model=model, profile=subject.profile(model) | big, evict=evict)
            for model in subject.models[1:]
        )
    )
    assert sorted(answer.status for answer in answers) == [200, 409]
    [refused] = [answer for answer in answers if answer.status == 409]
    assert refused.refusal.code == "outrun"
    assert len((await subject.report()).replicas) == 1


async def test_a_pinned_model_stays(subject: Subject) -> None:
    replica = await subject.load(subject.models[0])
    assert (await subject.command("/models/pin", model=subject.models[0])).status == 200
    replica = await subject.until_state(subject.models[0], "ready")
    assert replica.pinned
    evict = [{"replica": replica.id, "version": replica.version}]
    assert (await subject.try_load(subject.models[1], evict=evict)).refusal.code == "busy"
    assert (await subject.command("/models/unload", replica=replica.id)).refusal.code == "busy"
    await subject.command("/models/pin", model=subject.models[0], pinned=False)
    assert (await subject.command("/models/unload", replica=replica.id)).status == 200


async def test_a_pinned_model_is_loaded_by_itself(subject: Subject) -> None:
    await subject.command("/models/pin", model=subject.models[1])
    await subject.until_state(subject.models[1], "ready")


async def test_a_cordoned_neuron_takes_nothing_new(subject: Subject) -> None:
    replica = await subject.load(subject.models[0])
    async with subject.streaming(replica, tokens=30) as response:
        assert (await subject.command("/cordon", reason="a new fan")).status == 200
        assert (await subject.try_load(subject.models[1])).refusal.code == "cordoned"
        assert (await subject.ask(replica)).refusal.code == "cordoned"
        assert (await subject.report()).cordoned
        _, clean = await rest_of(response)
        assert clean
    await subject.command("/uncordon")
    assert (await subject.ask(replica)).status == 200


async def test_a_load_is_called_off_until_its_first_victim_is_gone(subject: Subject) -> None:
    first = await subject.load(subject.models[0])
    await subject.load(subject.models[1])
    async with subject.streaming(first, tokens=40) as response:
        evict = [{"replica": first.id, "version": first.version, "mode": "drain"}]
        answer = await subject.try_load(subject.models[2], evict=evict, operation_id="off", wait=False)
        assert answer.status == 202
        cancelled = await subject.command("/operations/off/cancel")
        assert (cancelled.status, cancelled.refusal.code) == (409, "cancelled")
        assert (await subject.until_state(subject.models[0], "ready")).id == first.id
        _, clean = await rest_of(response)
        assert clean
    assert await subject.replica(subject.models[2]) is None


async def test_demand_is_shared(subject: Subject) -> None:
    body = {"gateway": "g7", "models": {subject.models[0]: {"waiters": 3, "oldest_wait_s": 1.5}}}
    assert (await subject.command("/demand", **body)).status == 204
    demand = (await subject.report()).demand["g7"][subject.models[0]]
    assert (demand.waiters, demand.oldest_wait_s) == (3, 1.5)


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/models/load", b"{", ""),
        ("/models/load", b"{}", "model"),
        ("/models/load", b'{"model": "../etc"}', "model"),
        ("/models/load", b'{"model": "m", "colour": 1}', "colour"),
        ("/models/load", b'{"model": "m", "evict": [{"replica": "r"}]}', "evict[0].version"),
        ("/models/load", b'{"model": "m", "profile": {"id": "n"}}', "profile.id"),
        ("/models/load", b'{"model": "m", "profile": {"id": "m", "vram": 1}}', "profile.vram"),
        ("/models/unload", b"{}", "replica"),
        ("/models/unload", b'{"replica": "r", "mode": "later"}', "mode"),
        ("/models/pin", b"{}", "model"),
        ("/demand", b'{"gateway": "g", "models": {"m": {"waiters": -1}}}', "models[...].waiters"),
    ],
)
async def test_a_bad_body_names_its_field(subject: Subject, path: str, body: bytes, field: str) -> None:
    answer = await subject.call("POST", path, body)
    assert (answer.status, answer.refusal.code, answer.refusal.field) == (422, "bad_request", field)


async def test_a_body_over_the_limit_is_refused(subject: Subject) -> None:
    answer = await subject.call("POST", "/models/pin", {"model": "m", "pad": "x" * (2 << 20)})
    assert (answer.status, answer.refusal.code) == (413, "body_too_large")


async def test_a_placement_is_obeyed_or_refused(subject: Subject) -> None:
    placement: list[Any] = [{"id": "cpu:0", "memory_mb": 1200}]
    replica = await subject.load(subject.models[0], placement=placement)
    assert [(share.id, share.memory_mb) for share in replica.devices] == [("cpu:0", 1200)]
    answer = await subject.try_load(subject.models[1], placement=[{"id": "cuda:9", "memory_mb": 1}])
    assert (answer.status, answer.refusal.field) == (422, "placement")


# Sleep


SLEEPS = {"engine": {"enable_sleep_mode": True}}


@pytest.mark.parametrize("level", [1, 2])
async def test_a_replica_sleeps_and_wakes(subject: Subject, level: int) -> None:
    model = subject.models[0]
    replica = await subject.load(model, options=SLEEPS)
    slept = await subject.command("/models/sleep", replica=replica.id, version=replica.version, level=level)
    assert slept.status == 200, slept.body
    asleep = slept.as_(Operation).replica
    assert asleep is not None
    assert (asleep.state, asleep.tier) == ("sleeping", "asleep")
    assert sum(share.memory_mb for share in asleep.devices) < subject.replica_mb
    refused = await subject.ask(asleep)
    assert (refused.status, refused.refusal.code, refused.refusal.executed) == (409, "sleeping", "no")
    woken = await subject.command("/models/wake", replica=asleep.id, version=asleep.version)
    assert woken.status == 200, woken.body
    again = woken.as_(Operation).replica
    assert again is not None
    assert (again.state, again.tier, again.devices) == ("ready", "running", replica.devices)
    assert (await subject.ask(again)).status == 200
    [known] = [one for one in (await subject.report()).known if one.model == model]
    assert known.wake_s > 0


async def test_three_models_on_room_for_two_are_loaded_once_each_where_they_can_sleep(subject: Subject) -> None:
    homes: dict[str, str] = {}
    for model in (*subject.models, *subject.models):
        awake = [one for one in (await subject.report()).replicas if one.state == "ready" and one.model != model]
        evict = [{"replica": one.id, "version": one.version} for one in awake[:1]] if len(awake) == 2 else []
        replica = await subject.load(model, options=SLEEPS, evict=evict)
        assert homes.setdefault(model, replica.id) == replica.id
        assert (await subject.ask(replica)).status == 200


@real
async def test_what_cannot_sleep_says_so(subject: Subject) -> None:
    replica = await subject.load(subject.models[0])
    for path in ("/models/sleep", "/models/wake"):
        answer = await subject.command(path, replica=replica.id, version=replica.version)
        if path == "/models/sleep":
            assert (answer.status, answer.refusal.code) == (501, "unsupported")
            assert "enable_sleep_mode" in answer.refusal.message
        else:
            assert answer.status == 200, "it is awake"
    assert (await subject.command("/models/sleep", replica="x")).status == 404
    assert (await subject.command("/models/sleep", replica=replica.id, level=3)).status == 422

"""Requests to a replica: leases, refusals that say what was executed, and the end of a client."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from cortex_core.neuron_api import DEADLINE_S, INSTANCE, PRIORITY, REPLICA, REQUEST_ID, FinishedEvent, Health
from tests.neuron.contract.subject import Subject, real, rest_of
from tests.support.until import until_async


@real
async def test_a_stream_comes_through_to_its_end(subject: Subject) -> None:
    replica = await subject.load(subject.models[0])
    async with subject.streaming(replica, tokens=200) as response:
        assert response.header(b"content-type") == b"text/event-stream; charset=utf-8"
        assert response.header(b"x-cortex-replica") == replica.id.encode()
        body, clean = await rest_of(response)
    assert clean
    assert body.endswith(b"data: [DONE]\n\n")


@real
async def test_completions_are_served_as_well(subject: Subject) -> None:
    replica = await subject.load(subject.models[0])
    body = {"model": replica.model, "prompt": "one two", "max_tokens": 3}
    answer = await subject.call("POST", "/v1/completions", body, subject.head(replica))
    assert answer.status == 200
    assert answer.json()["choices"][0]["text"]


async def test_without_a_replica_the_model_in_the_body_counts(subject: Subject) -> None:
    replica = await subject.load(subject.models[0])
    assert (await subject.call("POST", "/v1/chat/completions", subject.chat(replica.model))).status == 200
    answer = await subject.call("POST", "/v1/chat/completions", subject.chat("unknown"))
    assert (answer.status, answer.refusal.code, answer.refusal.executed) == (409, "not_loaded", "no")
    answer = await subject.call("POST", "/v1/chat/completions", b"{}")
    assert (answer.status, answer.refusal.field) == (422, "model")


@real
async def test_a_lease_lasts_from_the_head_to_the_last_byte(subject: Subject) -> None:
    replica = await subject.load(subject.models[0])
    async with subject.streaming(replica, tokens=20) as response:
        found = await subject.replica(replica.model)
        assert found is not None
        assert found.in_flight == 1
        await rest_of(response)
    await subject.until_idle(replica.model)


@pytest.mark.parametrize("stream", [True, False])
@real
async def test_goal_R12_a_client_that_leaves_frees_its_lease(subject: Subject, stream: bool) -> None:
    replica = await subject.load(subject.models[0])
    body = subject.chat(replica.model, 1500, stream=stream)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(subject.call("POST", "/v1/chat/completions", body, subject.head(replica)))

        async def runs() -> bool:
            found = await subject.replica(replica.model)
            return found is not None and found.in_flight == 1

        await until_async(runs)
        task.cancel()
    await subject.until_idle(replica.model, timeout_s=1)


@real
async def test_usage_is_told_to_the_gateway_also_of_a_request_cut_short(subject: Subject) -> None:
    replica = await subject.load(subject.models[0])
    async with subject.events("g1") as events:
        await subject.ask(replica, tokens=5, head={REQUEST_ID: "whole"})
        whole = await events.until("finished", FinishedEvent)
        assert (whole.request_id, whole.completion_tokens, whole.gateway) == ("whole", 5, "g1")
        assert whole.prompt_tokens > 0
        async with subject.streaming(replica, head={REQUEST_ID: "cut"}) as response:
            while b"content" not in await response.read_some():
                pass
            await response.read_some()
        cut = await events.until("finished", FinishedEvent)
        assert (cut.request_id, cut.outcome) == ("cut", "abort")
        assert 0 < cut.completion_tokens < 1500
    again = await subject.get(f"/finished?gateway=g1&after={whole.seq}", list[FinishedEvent])
    assert again == [cut]
    assert await subject.get("/finished?gateway=other", list[FinishedEvent]) == []


async def test_no_request_is_executed_twice(subject: Subject) -> None:
    replica = await subject.load(subject.models[0])
    async with subject.streaming(replica, head={REQUEST_ID: "once"}):
        answer = await subject.ask(replica, head={REQUEST_ID: "once"})
        assert (answer.status, answer.refusal.code, answer.refusal.executed) == (409, "duplicate", "yes")
    await subject.until_idle(replica.model)
    answer = await subject.ask(replica, head={REQUEST_ID: "once"})
    assert (answer.refusal.code, answer.refusal.executed) == ("duplicate", "yes")


async def test_another_instance_is_outrun(subject: Subject) -> None:
    replica = await subject.load(subject.models[0])
    answer = await subject.ask(replica, head={INSTANCE: "another"})
    assert (answer.status, answer.refusal.code, answer.refusal.executed) == (409, "outrun", "no")
    instance_id = (await subject.report()).instance_id
    assert (await subject.ask(replica, head={INSTANCE: instance_id})).status == 200


async def test_a_replica_that_is_gone_refuses_with_what_there_is(subject: Subject) -> None:
    replica = await subject.load(subject.models[0])
    await subject.command("/models/unload", replica=replica.id)
    answer = await subject.ask(replica)
    assert (answer.status, answer.refusal.code, answer.refusal.retry) == (409, "not_loaded", "elsewhere")


async def test_while_it_loads_a_request_is_sent_to_wait(subject: Subject) -> None:
    await subject.try_load(subject.models[0], wait=False)
    loading = await subject.replica(subject.models[0])
    assert loading is not None
    answer = await subject.ask(loading)
    if answer.status != 200:  # it may have been quicker
        assert (answer.status, answer.refusal.code, answer.refusal.retry) == (503, "loading", "here")
        assert [r.id for r in answer.refusal.replicas] == [loading.id]


async def test_a_draining_replica_refuses_not_executed(subject: Subject) -> None:
    replica = await subject.load(subject.models[0])
    async with subject.streaming(replica, tokens=60) as response:
        unload = {"replica": replica.id, "mode": "drain", "wait": False}
        assert (await subject.command("/models/unload", **unload)).status == 202
        answer = await subject.ask(replica)
        assert (answer.status, answer.refusal.code, answer.refusal.executed) == (409, "draining", "no")
        _, clean = await rest_of(response)
        assert clean


async def test_slots_and_queues_are_bounded(subject: Subject) -> None:
    options = {"max_in_flight": 1, "max_queue_depth": 1}
    replica = await subject.load(subject.models[0], options=options)
    async with subject.streaming(replica), asyncio.TaskGroup() as group:
        waiting = group.create_task(subject.ask(replica, head={DEADLINE_S: "30"}))

        async def queued() -> bool:
            found = await subject.replica(replica.model)
            return found is not None and found.queue == 1

        await until_async(queued)
        answer = await subject.ask(replica)
        assert (answer.status, answer.refusal.code, answer.refusal.retry) == (503, "full", "here")
        late = await subject.ask(replica, gateway="g2", head={DEADLINE_S: "0.05"})
        assert (late.status, late.refusal.code) == (504, "deadline")
        waiting.cancel()
    await subject.until_idle(replica.model)


@pytest.mark.parametrize(
    "head", [{DEADLINE_S: "soon"}, {DEADLINE_S: "0"}, {REQUEST_ID: "x" * 300}, {REPLICA: "no such"}]
)
async def test_a_bad_head_is_refused_before_the_body(subject: Subject, head: dict[str, str]) -> None:
    replica = await subject.load(subject.models[0])
    answer = await subject.ask(replica, head=head)
    assert answer.status in (409, 422)
    assert answer.refusal.executed == "no"


@real
async def test_what_the_engine_refuses_comes_through_as_it_said_it(subject: Subject) -> None:
    replica = await subject.load(subject.models[0])
    body = subject.chat(replica.model) | {"max_tokens": 10_000_000}
    answer = await subject.call("POST", "/v1/chat/completions", body, subject.head(replica))
    assert answer.status == 400
    assert "context" in answer.json()["error"]["message"] or "max_tokens" in answer.json()["error"]["message"]
    assert "x-cortex-refusal" not in answer.headers


@real
async def test_a_priority_reaches_the_engine_or_is_refused(subject: Subject) -> None:
    replica = await subject.load(subject.models[0])
    assert (await subject.ask(replica, head={PRIORITY: "9"})).status == 200
    answer = await subject.ask(replica, head={PRIORITY: "10"})
    assert (answer.status, answer.refusal.field) == (422, PRIORITY)


async def test_many_at_once_are_all_answered(subject: Subject) -> None:
    replica = await subject.load(subject.models[0], options={"max_queue_depth": 100})
    answers = await asyncio.gather(*(subject.ask(replica, tokens=2) for _ in range(40)))
    assert {answer.status for answer in answers} == {200}
    health = await subject.get("/health", Health)
    assert health.replicas[0].in_flight == 0


@real
async def test_metrics_show_devices_replicas_and_the_engines_own(subject: Subject) -> None:
    replica = await subject.load(subject.models[0])
    await subject.ask(replica, tokens=3)
    answer = await subject.call("GET", "/metrics")
    text = answer.body.decode()
    assert f'neuron_replica_state{{model="{replica.model}",replica="{replica.id}",state="ready"}} 1' in text
    assert 'neuron_device_memory_bytes{device="cpu:0"}' in text
    assert any("generation_tokens_total" in line and replica.model in line for line in text.splitlines())


async def test_the_list_of_models_is_what_is_ready(subject: Subject) -> None:
    await subject.load(subject.models[0])
    answer = await subject.call("GET", "/v1/models")
    assert [entry["id"] for entry in msgspec.json.decode(answer.body)["data"]] == [subject.models[0]]

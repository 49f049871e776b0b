"""What a neuron tells: version, discovery, report, health, events."""

from __future__ import annotations

import pytest

from cortex_core.fleet import Fleet, Neuron, State, check_invariants
from cortex_core.neuron_api import (
    API_HEADER,
    Discovery,
    Gauges,
    Health,
    Operation,
    ReplicaEvent,
    Report,
    Version,
)
from tests.neuron.contract.subject import Subject, real


async def test_version_says_what_is_spoken(subject: Subject) -> None:
    version = await subject.get("/version", Version)
    assert 1 in version.api
    assert {"load", "unload", "evict", "events"} <= set(version.features)
    assert version.instance_id == (await subject.report()).instance_id


async def test_another_version_of_the_contract_is_refused(subject: Subject) -> None:
    answer = await subject.call("GET", "/models", headers={API_HEADER: "2"})
    assert (answer.status, answer.refusal.code) == (426, "unsupported_api")
    assert (await subject.call("GET", "/models", headers={API_HEADER: "1"})).status == 200


@real
async def test_discovery_names_devices_engines_and_checkpoints(subject: Subject) -> None:
    found = await subject.get("/discovery", Discovery)
    assert found.name == "beast"
    assert found.os
    [device] = found.devices
    assert (device.id, device.memory_mb) == ("cpu:0", 2500)
    [engine] = found.engines
    assert engine.simulated == (engine.kind == "sim")


@real
async def test_a_report_is_whole_and_its_invariants_hold(subject: Subject) -> None:
    await subject.load(subject.models[0])
    report = await subject.report()
    [replica] = report.replicas
    assert (replica.state, replica.model, replica.tier) == (State.READY, subject.models[0], "running")
    assert replica.version > 1
    assert replica.load_s > 0
    assert replica.max_in_flight >= 1
    assert replica.context > 0
    assert "generate" in replica.tasks
    assert replica.simulated == report.simulated
    neuron = Neuron(name="beast", up=True, devices=report.devices, replicas=report.replicas)
    check_invariants(Fleet(neurons={"beast": neuron}))


async def test_what_a_load_took_is_remembered(subject: Subject) -> None:
    replica = await subject.load(subject.models[0])
    [known] = [k for k in (await subject.report()).known if k.model == replica.model]
    assert known.digest == replica.digest
    assert known.load_s == pytest.approx(replica.load_s, abs=0.01)
    assert known.kv_tokens == replica.kv_tokens > 0


async def test_health_tells_each_replica(subject: Subject) -> None:
    await subject.load(subject.models[0])
    health = await subject.get("/health", Health)
    assert health.status == "ok"
    assert health.problems == ()
    [replica] = health.replicas
    assert (replica.ok, replica.state, replica.since_progress_s) == (True, "ready", 0.0)


async def test_events_begin_with_a_snapshot_and_tell_a_loads_whole_way(subject: Subject) -> None:
    async with subject.events() as events:
        first = await events.next()
        assert first.event == "snapshot"
        snapshot = await subject.report()
        replica = await subject.load(subject.models[0])
        seqs, states = [], []
        while State.READY not in states:
            event = await events.until("replica", ReplicaEvent)
            if event.replica.id == replica.id:
                states.append(event.replica.state)
            seqs.append(event.seq)
        assert states[0] is State.LOADING
        assert seqs == sorted(set(seqs))
        assert seqs[0] > snapshot.seq
        await subject.command("/models/unload", replica=replica.id)
        while (event := await events.until("replica", ReplicaEvent)).replica.state is not State.ABSENT:
            assert event.replica.state in (State.DRAINING, State.UNLOADING, State.READY)


async def test_a_heartbeat_comes_each_second_with_the_gauges(subject: Subject) -> None:
    replica = await subject.load(subject.models[0])
    async with subject.events() as events, subject.streaming(replica):
        while (await events.until("heartbeat", Gauges, 3)).in_flight.get(replica.id) != 1:
            pass


async def test_what_has_no_event_of_its_own_comes_as_a_snapshot(subject: Subject) -> None:
    async with subject.events() as events:
        await events.until("snapshot", Report)
        await subject.command("/models/pin", model=subject.models[1])
        while subject.models[1] not in (await events.until("snapshot", Report)).pins:
            pass


async def test_operations_are_told(subject: Subject) -> None:
    async with subject.events() as events:
        await subject.load(subject.models[0], operation_id="told")
        while True:
            operation = await events.until("operation", Operation)
            if operation.id == "told" and operation.status == "done":
                return


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("DELETE", "/models", 405, "method_not_allowed"),
        ("GET", "/models/load", 405, "method_not_allowed"),
        ("GET", "/operations/unknown", 404, "not_found"),
        ("POST", "/v1/load_lora_adapter", 404, "not_found"),
    ],
)
async def test_what_is_not_there_is_said(subject: Subject, method: str, path: str, status: int, code: str) -> None:
    answer = await subject.call(method, path)
    assert (answer.status, answer.refusal.code) == (status, code)

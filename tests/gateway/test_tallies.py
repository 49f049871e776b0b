"""Counters and histograms: the same exposition as prometheus_client's own would give."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from cortex_core.errors import Dialect
from cortex_core.metrics import METRICS
from cortex_gateway.dispatch.swaps import SwapRecord
from cortex_gateway.metrics.tallies import Tallies
from cortex_gateway.metrics.telemetry import Telemetry
from cortex_gateway.policy.usage import Usage
from cortex_gateway.relay.record import CLIENT_LEFT, Record

LABELS = ("neuron", "model", "dialect", "code", "reason")
NAME = "cortex_queue_wait_seconds"
BOUNDS = next(metric.buckets for metric in METRICS if metric.name == NAME)


@given(st.lists(st.floats(0, 1000) | st.sampled_from(BOUNDS), max_size=30))
def test_a_histogram_is_prometheus_own(values: list[float]) -> None:
    tallies, registry, theirs = Tallies(), CollectorRegistry(), CollectorRegistry()
    registry.register(tallies)
    reference = Histogram(NAME, "Theirs.", ("neuron", "model"), registry=theirs, buckets=BOUNDS).labels("n", "m")
    ours = tallies.buckets(NAME, "n", "m")
    for value in values:
        ours.observe(value)
        reference.observe(value)
    for suffix in ("_count", "_sum"):
        found = registry.get_sample_value(NAME + suffix, {"neuron": "n", "model": "m"})
        assert found == theirs.get_sample_value(NAME + suffix, {"neuron": "n", "model": "m"})
    for bound in [*map(str, BOUNDS), "+Inf"]:
        labels = {"neuron": "n", "model": "m", "le": bound}
        assert registry.get_sample_value(NAME + "_bucket", labels) == theirs.get_sample_value(NAME + "_bucket", labels)


def samples(telemetry: Telemetry) -> dict[str, float]:
    """Every sample that is not a bucket, by name and label values."""
    text = generate_latest(telemetry.registry).decode()
    return {
        " ".join([sample.name, *(sample.labels[label] for label in LABELS if label in sample.labels)]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_bucket")
    }


def record(**fields: object) -> Record:
    told = {"request_id": "r", "model": "m", "dialect": Dialect.OPENAI_CHAT, "stream": True, "arrived": 100.0}
    return Record(**{**told, "neuron": "n", "leased": 101.0, "ended": 110.0, **fields})  # type: ignore[arg-type]


def test_a_streamed_answer() -> None:
    telemetry = Telemetry("1")
    telemetry.ended(record(first_content=105.0, usage=Usage(prompt_tokens=7, cached_tokens=4, completion_tokens=11)))
    assert samples(telemetry) == {
        "cortex_requests_total n m openai-chat": 1,
        "cortex_client_disconnects_total n m": 0,
        "cortex_prompt_tokens_total n m": 7,
        "cortex_cached_prompt_tokens_total n m": 4,
        "cortex_completion_tokens_total n m": 11,
        "cortex_tokens_per_second_count n m": 1,
        "cortex_tokens_per_second_sum n m": 2.0,
        "cortex_time_to_first_token_seconds_count n m": 1,
        "cortex_time_to_first_token_seconds_sum n m": 5.0,
        "cortex_request_duration_seconds_count n m": 1,
        "cortex_request_duration_seconds_sum n m": 10.0,
        "cortex_queue_wait_seconds_count n m": 1,
        "cortex_queue_wait_seconds_sum n m": 1.0,
    }


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"code": "loading", "neuron": "", "leased": 0.0}, {"cortex_request_errors_total  m openai-chat loading": 1}),
        ({"code": "upstream_failed"}, {"cortex_request_errors_total n m openai-chat upstream_failed": 1}),
        ({"code": CLIENT_LEFT}, {"cortex_client_disconnects_total n m": 1}),
        ({"retries": ["full", "full", "unreachable"]}, {"cortex_retries_total full": 2}),
    ],
)
def test_other_ends(fields: dict[str, object], expected: dict[str, float]) -> None:
    telemetry = Telemetry("1")
    telemetry.ended(record(**fields))
    assert expected.items() <= samples(telemetry).items()
    errors = sum(value for name, value in samples(telemetry).items() if "errors" in name)
    assert errors == (0 if fields.get("code", CLIENT_LEFT) == CLIENT_LEFT else 1)


@pytest.mark.parametrize(
    ("swap", "expected"),
    [
        (
            SwapRecord(model="m", neuron="n", seconds=2.0, victims=("a", "b")),
            {"cold_starts", "evictions", "load_duration"},
        ),
        (SwapRecord(model="m", neuron="n", seconds=2.0, reason="pinned"), {"load_duration"}),
        (SwapRecord(model="m", neuron="n", seconds=2.0, victims=("m",), loaded=False), {"evictions"}),
        (SwapRecord(model="m", neuron="n", seconds=2.0, error="outrun", victims=("a",)), {"load_failures"}),
        (SwapRecord(model="m", neuron="n", seconds=2.0, error="busy", loaded=False), set()),
    ],
)
def test_swaps(swap: SwapRecord, expected: set[str]) -> None:
    telemetry = Telemetry("1")
    telemetry.swapped(swap)
    kinds = ("cold_starts", "evictions", "load_duration", "load_failures")
    assert {kind for kind in kinds if any(f"cortex_{kind}" in name for name in samples(telemetry))} == expected


def test_every_metric_of_the_table_is_there() -> None:
    text = generate_latest(Telemetry("1").registry).decode()
    for metric in METRICS:
        if metric.kind != "gauge":
            assert f"# TYPE {metric.name} {metric.kind}" in text
            assert f"# HELP {metric.name} {metric.help}" in text

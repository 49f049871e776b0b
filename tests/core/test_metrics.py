"""The metrics as Prometheus wants them (https://prometheus.io/docs/practices/naming)."""

from __future__ import annotations

import re

import pytest

from cortex_core.metrics import BY_NAME, METRICS, Metric

LABELS = {"neuron", "model", "dialect", "code", "reason", "state", "device", "version", "phase", "outcome"}
BASE_UNITS = ("_seconds", "_bytes", "_ratio", "_celsius", "_watts", "_total", "_info")
COUNTS = ("_up", "_state", "_in_flight", "_queue_depth", "_waiters", "_per_second")  # without a unit
NOT_BASE = re.compile(r"_(ms|milliseconds|mb|mib|kb|gb|percent|pct|minutes|hours|mw)(_|$)")

every_metric = pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)


def test_no_name_twice() -> None:
    assert len(BY_NAME) == len(METRICS)


@every_metric
def test_names_are_ours_and_well_formed(metric: Metric) -> None:
    assert re.fullmatch(r"cortex_[a-z][a-z0-9_]*", metric.name)
    assert "__" not in metric.name
    assert not NOT_BASE.search(metric.name), "base units only: seconds, bytes, ratios"
    assert metric.name.endswith(BASE_UNITS + COUNTS), "the unit, or what is counted, stands last"


@every_metric
def test_counters_and_only_counters_end_in_total(metric: Metric) -> None:
    assert metric.name.endswith("_total") is (metric.kind == "counter")


@every_metric
def test_names_do_not_collide_with_what_an_exporter_appends(metric: Metric) -> None:
    assert not metric.name.endswith(("_bucket", "_sum", "_count", "_created"))
    assert metric.kind not in metric.name.split("_"), "a name does not say its type"


@every_metric
def test_labels_come_from_a_closed_set_and_name_no_unit(metric: Metric) -> None:
    assert set(metric.labels) <= LABELS
    assert len(metric.labels) == len(set(metric.labels))


@every_metric
def test_help_is_a_sentence(metric: Metric) -> None:
    assert metric.help[0].isupper() or metric.help[0].isdigit()
    assert metric.help.endswith(".")
    assert "\n" not in metric.help


@every_metric
def test_histograms_and_only_histograms_have_buckets_that_rise(metric: Metric) -> None:
    assert bool(metric.buckets) is (metric.kind == "histogram")
    assert list(metric.buckets) == sorted(set(metric.buckets))
    assert all(bucket > 0 for bucket in metric.buckets)
    assert len(metric.buckets) <= 32, "each bucket is a series for every model on every neuron"


ORIGINAL = """cortex_request_duration_seconds cortex_time_to_first_token_seconds cortex_tokens_per_second
    cortex_requests_total cortex_request_errors_total cortex_prompt_tokens_total cortex_completion_tokens_total
    cortex_cached_prompt_tokens_total cortex_cold_starts_total cortex_evictions_total cortex_model_in_flight
    cortex_model_queue_depth""".split()


@pytest.mark.parametrize("name", ORIGINAL)
def test_the_originals_names_are_kept(name: str) -> None:
    assert {"model", "neuron"} <= set(BY_NAME[name].labels)

"""Prometheus' text, written and merged."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from neuron.api.exposition import Family, merge, render, sample, values

FIRST = """\
# HELP python_gc_total Objects.
# TYPE python_gc_total counter
python_gc_total 7
# HELP vllm:num_requests_running Number of requests.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a"} 3.0
# HELP vllm:generation_tokens_total Tokens.
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{model_name="a"} 40
# TYPE vllm:ttft histogram
vllm:ttft_bucket{le="0.1",model_name="a"} 1
vllm:ttft_bucket{le="+Inf",model_name="a"} 2
vllm:ttft_sum{model_name="a"} 0.5
vllm:ttft_count{model_name="a"} 2
"""
SECOND = """\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running 5
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{engine="0"} 2
"""


def test_two_engines_become_one_text() -> None:
    text = render(merge({"a": FIRST, "b": SECOND}, ("vllm:",))).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert set(families) == {"vllm:num_requests_running", "vllm:generation_tokens", "vllm:ttft"}
    running = {s.labels["model_name"]: s.value for s in families["vllm:num_requests_running"].samples}
    assert running == {"a": 3.0, "b": 5.0}
    assert families["vllm:num_requests_running"].documentation == "Number of requests."
    assert len(families["vllm:ttft"].samples) == 4


def test_each_family_stands_once() -> None:
    text = render(merge({"a": FIRST, "b": SECOND}, ("vllm:",))).decode()
    assert text.count("# TYPE vllm:num_requests_running ") == 1


def test_labels_are_escaped_and_numbers_exact() -> None:
    line = sample("m", {"model": 'a"b\\c\nd'}, 25_769_803_776)
    assert line == 'm{model="a\\"b\\\\c\\nd"} 25769803776'
    [family] = text_string_to_metric_families(render([Family(name="m", kind="gauge", samples=[line])]).decode())
    assert family.samples[0].labels == {"model": 'a"b\\c\nd'}
    assert sample("m", {}, 0.25) == "m 0.25"


def test_counters_are_summed_by_the_ends_of_their_names() -> None:
    assert values(FIRST, ("generation_tokens_total",)) == 40
    assert values(SECOND, ("generation_tokens_total", "num_requests_running")) == 7
    assert values("", ("x",)) == 0

"""Every metric that cortex publishes, as data: so that code, documents, dashboards and alerts cannot drift apart.

Names keep the original's where they follow Prometheus' conventions; units are base units and stand last.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["counter", "gauge", "histogram"]

# GenAI semantic conventions' first-token list, extended for cold loads.
TTFT_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
COLD_S = (20.0, 40.0, 80.0, 160.0, 320.0)
DURATION_S = tuple(0.01 * 2**n for n in range(17))  # 0.01 … 655.36
TOKENS_PER_S = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 50.0, 75.0, 100.0, 150.0, 200.0, 300.0, 500.0, 1000.0, 2000.0)


class Metric(NamedTuple):
    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


_REQUEST = ("neuron", "model")

METRICS: tuple[Metric, ...] = (
    Metric("cortex_requests_total", "counter", "Requests that ended, however.", (*_REQUEST, "dialect")),
    Metric(
        "cortex_request_errors_total", "counter", "Requests that ended in an error.", (*_REQUEST, "dialect", "code")
    ),
    Metric("cortex_client_disconnects_total", "counter", "Requests whose client left first.", _REQUEST),
    Metric("cortex_prompt_tokens_total", "counter", "Prompt tokens, as the engine counted them.", _REQUEST),
    Metric("cortex_cached_prompt_tokens_total", "counter", "Prompt tokens found in the prefix cache.", _REQUEST),
    Metric("cortex_completion_tokens_total", "counter", "Completion tokens, as the engine counted them.", _REQUEST),
    Metric(
        "cortex_tokens_per_second",
        "histogram",
        "Completion tokens per second of one request, after its first.",
        _REQUEST,
        TOKENS_PER_S,
    ),
    Metric(
        "cortex_time_to_first_token_seconds",
        "histogram",
        "From a request's arrival to its first content token, queue and load included.",
        _REQUEST,
        TTFT_S + COLD_S,
    ),
    Metric(
        "cortex_request_duration_seconds",
        "histogram",
        "From a request's arrival to the last byte of its answer.",
        _REQUEST,
        DURATION_S,
    ),
    Metric(
        "cortex_queue_wait_seconds",
        "histogram",
        "From a request's arrival to its lease, a load included.",
        _REQUEST,
        DURATION_S,
    ),
    Metric("cortex_cold_starts_total", "counter", "Loads that this gateway started for a request.", _REQUEST),
    Metric("cortex_evictions_total", "counter", "Replicas that this gateway let go to make room.", _REQUEST),
    Metric("cortex_load_failures_total", "counter", "Loads of this gateway that failed.", (*_REQUEST, "code")),
    Metric("cortex_load_duration_seconds", "histogram", "Loads of this gateway that succeeded.", _REQUEST, DURATION_S),
    Metric("cortex_retries_total", "counter", "Second attempts of a request.", ("reason",)),
    Metric("cortex_waiters", "gauge", "Requests without a lease yet.", ("model",)),
    Metric("cortex_oldest_wait_seconds", "gauge", "Age of the oldest request without a lease.", ()),
    Metric("cortex_neuron_up", "gauge", "1 while the neuron answers.", ("neuron",)),
    Metric("cortex_model_state", "gauge", "1 for the state that a replica is in.", (*_REQUEST, "state")),
    Metric("cortex_model_in_flight", "gauge", "Requests that hold a lease, from all gateways.", _REQUEST),
    Metric("cortex_model_queue_depth", "gauge", "Requests waiting at the replica.", _REQUEST),
    Metric("cortex_device_memory_bytes", "gauge", "Memory of a device.", ("neuron", "device")),
    Metric("cortex_device_memory_used_bytes", "gauge", "Memory that replicas and others use.", ("neuron", "device")),
    Metric("cortex_build_info", "gauge", "1, labelled with the version.", ("version",)),
)

BY_NAME = {metric.name: metric for metric in METRICS}

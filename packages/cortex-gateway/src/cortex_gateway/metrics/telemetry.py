"""Prometheus metrics: what has ended is counted as it ends, what is is read off the fleet when somebody asks.

The registry is this gateway's own. Labels come from closed sets (configured neurons, catalogued models, codes of the
tables), never from a client.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cortex_core.errors import Dialect
from cortex_core.fleet import MEBIBYTE, Fleet, Neuron
from cortex_core.metrics import METRICS
from cortex_gateway.dispatch.dispatcher import Dispatcher
from cortex_gateway.dispatch.swaps import SwapRecord
from cortex_gateway.metrics.tallies import Tallies
from cortex_gateway.relay.record import CLIENT_LEFT, Record


class _Cells:
    """Where the requests of one (neuron, model, dialect) are counted: one lookup a request."""

    __slots__ = ("cached", "completion", "duration", "left", "prompt", "queued", "requests", "speed", "ttft")

    def __init__(self, tallies: Tallies, neuron: str, model: str, dialect: str) -> None:
        self.requests = tallies.count("cortex_requests_total", neuron, model, dialect)
        self.left = tallies.count("cortex_client_disconnects_total", neuron, model)
        self.prompt = tallies.count("cortex_prompt_tokens_total", neuron, model)
        self.cached = tallies.count("cortex_cached_prompt_tokens_total", neuron, model)
        self.completion = tallies.count("cortex_completion_tokens_total", neuron, model)
        self.speed = tallies.buckets("cortex_tokens_per_second", neuron, model)
        self.ttft = tallies.buckets("cortex_time_to_first_token_seconds", neuron, model)
        self.duration = tallies.buckets("cortex_request_duration_seconds", neuron, model)
        self.queued = tallies.buckets("cortex_queue_wait_seconds", neuron, model)


class Telemetry:
    def __init__(self, version: str) -> None:
        self.registry = CollectorRegistry()
        self._version = version
        self._tallies = Tallies()
        self._cells: dict[tuple[str, str, Dialect], _Cells] = {}
        self.registry.register(self._tallies)

    def watch(self, dispatcher: Dispatcher) -> None:
        """From now on gauges come from its picture."""
        self.registry.register(_Gauges(dispatcher, self._version))

    def refused(self, dialect: Dialect, code: str) -> None:
        """A request that was no request for any model."""
        self._tallies.count("cortex_requests_total", "", "", dialect).value += 1
        self._tallies.count("cortex_request_errors_total", "", "", dialect, code).value += 1

    def ended(self, record: Record) -> None:
        """A request ended, however."""
        key = (record.neuron, record.model, record.dialect)
        cells = self._cells.get(key)
        if cells is None:
            cells = self._cells[key] = _Cells(self._tallies, *key)
        cells.requests.value += 1
        cells.duration.observe(record.ended - record.arrived)
        if record.leased:
            cells.queued.observe(record.leased - record.arrived)
        if record.first_content:
            cells.ttft.observe(record.first_content - record.arrived)
        usage = record.usage
        if usage is not None:
            cells.prompt.value += usage.prompt_tokens
            cells.cached.value += usage.cached_tokens
            cells.completion.value += usage.completion_tokens
            spent_s = record.ended - record.first_content
            if record.first_content and usage.completion_tokens > 1 and spent_s > 0:
                cells.speed.observe((usage.completion_tokens - 1) / spent_s)
        if record.code == CLIENT_LEFT:
            cells.left.value += 1
        elif record.code:
            self._tallies.count("cortex_request_errors_total", *key, record.code).value += 1
        for reason in record.retries:
            self._tallies.count("cortex_retries_total", reason).value += 1

    def swapped(self, swap: SwapRecord) -> None:
        """A swap of this gateway ended."""
        tallies, labels = self._tallies, (swap.neuron, swap.model)
        if swap.error:
            if swap.loaded:
                tallies.count("cortex_load_failures_total", *labels, swap.error).value += 1
            return
        if swap.loaded:
            if swap.reason == "waiters":
                tallies.count("cortex_cold_starts_total", *labels).value += 1
            tallies.buckets("cortex_load_duration_seconds", *labels).observe(swap.seconds)
        for model in swap.victims:
            tallies.count("cortex_evictions_total", swap.neuron, model).value += 1

    async def metrics(self) -> Iterable[Metric]:
        """What is known now."""
        return self.registry.collect()


class _Gauges(Collector):
    """Read off the dispatcher at each scrape, so that no gauge can be forgotten or go stale."""

    def __init__(self, dispatcher: Dispatcher, version: str) -> None:
        self._dispatcher = dispatcher
        self._version = version

    def collect(self) -> Iterator[GaugeMetricFamily]:
        gauges = {
            metric.name: GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
            for metric in METRICS
            if metric.kind == "gauge"
        }
        gauges["cortex_build_info"].add_metric((self._version,), 1)
        oldest_s = 0.0
        for model, (waiters, age_s) in self._dispatcher.waiting().items():
            gauges["cortex_waiters"].add_metric((model,), waiters)
            oldest_s = max(oldest_s, age_s)
        gauges["cortex_oldest_wait_seconds"].add_metric((), oldest_s)
        _read(self._dispatcher.fleet, gauges)
        yield from gauges.values()


def _read(fleet: Fleet, gauges: Mapping[str, GaugeMetricFamily]) -> None:
    for neuron in fleet.neurons.values():
        gauges["cortex_neuron_up"].add_metric((neuron.name,), int(neuron.up))
        if neuron.up:
            _read_neuron(neuron, gauges)


def _read_neuron(neuron: Neuron, gauges: Mapping[str, GaugeMetricFamily]) -> None:
    for device in neuron.devices:
        labels = (neuron.name, device.id)
        gauges["cortex_device_memory_bytes"].add_metric(labels, device.memory_mb * MEBIBYTE)
        used_mb = device.memory_mb - neuron.free_mb(device)
        gauges["cortex_device_memory_used_bytes"].add_metric(labels, used_mb * MEBIBYTE)
    in_flight, queued, states = Tally[str](), Tally[str](), Tally[tuple[str, str]]()
    for replica in neuron.replicas:  # a model may have more than one here: going and coming
        in_flight[replica.model] += replica.in_flight
        queued[replica.model] += replica.queue
        states[replica.model, replica.state] = 1
    for model, count in in_flight.items():
        gauges["cortex_model_in_flight"].add_metric((neuron.name, model), count)
        gauges["cortex_model_queue_depth"].add_metric((neuron.name, model), queued[model])
    for (model, state), one in states.items():
        gauges["cortex_model_state"].add_metric((neuron.name, model, state), one)

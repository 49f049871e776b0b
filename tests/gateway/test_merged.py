"""The metrics of several gateways as those of one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest

from cortex_core.errors import Dialect
from cortex_gateway.metrics.merged import Report, merged, metrics, read, totals
from cortex_gateway.metrics.telemetry import Telemetry
from cortex_gateway.policy.usage import Usage
from cortex_gateway.relay.record import Record

GAUGES = """\
# HELP cortex_waiters Requests without a lease yet.
# TYPE cortex_waiters gauge
cortex_waiters{model="m"} %g
# HELP cortex_oldest_wait_seconds Age of the oldest.
# TYPE cortex_oldest_wait_seconds gauge
cortex_oldest_wait_seconds %g
# HELP cortex_model_in_flight From all gateways.
# TYPE cortex_model_in_flight gauge
cortex_model_in_flight{neuron="n",model="m"} %g
"""


def told(telemetry: Telemetry) -> Report:
    return read(generate_latest(telemetry.registry).decode())


def served(*durations_s: float, model: str = "m") -> Telemetry:
    """A gateway that has answered requests which took so long."""
    telemetry = Telemetry("1")
    for seconds in durations_s:
        telemetry.ended(
            Record(
                request_id="r",
                model=model,
                dialect=Dialect.OPENAI_CHAT,
                stream=False,
                neuron="n",
                arrived=1.0,
                ended=1.0 + seconds,
                usage=Usage(3, 0, 5),
            )
        )
    return telemetry


def values(report: Report, name: str) -> list[float]:
    return list(report[name].samples.values())


durations = st.lists(st.floats(0.001, 1000), max_size=5)


@given(durations, durations)
def test_counters_and_histograms_are_those_of_one_gateway_that_did_it_all(one: list[float], other: list[float]) -> None:
    together = merged([told(served(*one)), told(served(*other))])
    alone = told(served(*one, *other))
    assert together.keys() == alone.keys()
    for name, family in alone.items():
        assert dict(together[name].samples) == pytest.approx(dict(family.samples))


def test_gauges_of_the_fleet_are_one_gateways_and_waiters_are_everybodys() -> None:
    together = merged([read(GAUGES % (2, 3.0, 7)), read(GAUGES % (1, 9.0, 7))])
    assert values(together, "cortex_waiters") == [3]
    assert values(together, "cortex_oldest_wait_seconds") == [9.0]
    assert values(together, "cortex_model_in_flight") == [7]


def test_of_a_gateway_that_is_gone_its_counts_stay() -> None:
    past = totals(merged([told(served(1.0, model="a/b")), read(GAUGES % (2, 3.0, 7))]))
    assert "cortex_waiters" not in past
    text = generate_latest(_Registry(merged([told(served(2.0, model="a/b")), past]))).decode()  # type: ignore[arg-type]
    assert 'cortex_requests_total{dialect="openai-chat",model="a/b",neuron="n"} 2.0' in text
    assert 'cortex_request_duration_seconds_sum{model="a/b",neuron="n"} 3.0' in text


class _Registry:
    def __init__(self, report: Report) -> None:
        self.report = report

    def collect(self) -> object:
        return metrics(self.report)

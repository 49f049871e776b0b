"""The metrics of several gateways as those of one.

What was counted is summed. Gauges describe the fleet, which all see alike, so one gateway's are enough, except for who
waits: that is each gateway's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

_SUMMED = frozenset({"cortex_waiters"})
_HIGHEST = frozenset({"cortex_oldest_wait_seconds"})

Labels = tuple[tuple[str, str], ...]


class Family(Struct, frozen=True):
    """One metric. Samples by name (a histogram has three) and labels."""

    kind: str
    help: str
    samples: Mapping[tuple[str, Labels], float]


Report = Mapping[str, Family]


def read(text: str) -> Report:
    """A report from Prometheus' text format."""
    return {
        family.name: Family(
            family.type,
            family.documentation,
            {(sample.name, tuple(sample.labels.items())): sample.value for sample in family.samples},
        )
        for family in text_string_to_metric_families(text)
    }


def merged(reports: Sequence[Report]) -> Report:
    """All as one. Of a gauge that is the fleet's own the first report's word counts."""
    together: dict[str, Family] = {}
    for report in reports:
        for name, family in report.items():
            known = together.get(name)
            together[name] = family if known is None else _joined(name, known, family)
    return together


def totals(report: Report) -> Report:
    """Only what was counted: what stays true when its gateway is gone."""
    return {name: family for name, family in report.items() if family.kind in ("counter", "histogram")}


def metrics(report: Report) -> Iterator[Metric]:
    for name, family in report.items():
        metric = Metric(name, family.help, family.kind)
        for (sample, labels), value in family.samples.items():
            metric.add_sample(sample, dict(labels), value)
        yield metric


def _joined(name: str, one: Family, other: Family) -> Family:
    samples = dict(one.samples)
    for sample, value in other.samples.items():
        if one.kind in ("counter", "histogram") or name in _SUMMED:
            samples[sample] = samples.get(sample, 0.0) + value
        elif name in _HIGHEST:
            samples[sample] = max(samples.get(sample, value), value)
    return Family(one.kind, one.help, samples)

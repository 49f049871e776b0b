"""Counters and histograms that cost an addition.

prometheus_client's own take a lock and a check for each number, which was a quarter of all calls that a request made
here. These belong to the loop's thread alone, and are handed to it at a scrape.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

from cortex_core.metrics import BY_NAME, METRICS


class Count:
    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0


class Buckets:
    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def told(self) -> tuple[list[tuple[str, float]], float]:
        """Cumulative counts by upper bound, as Prometheus wants them, and the sum."""
        total, buckets = 0, []
        for bound, count in zip([*map(str, self._bounds), "+Inf"], self._counts, strict=True):
            total += count
            buckets.append((bound, float(total)))
        return buckets, self._sum


class Tallies:
    """Every counter and histogram of `cortex_core.metrics`. A cell may be kept, and is then looked up once."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[tuple[str, ...], Count]] = {m.name: {} for m in METRICS if m.kind == "counter"}
        self._buckets: dict[str, dict[tuple[str, ...], Buckets]] = {
            m.name: {} for m in METRICS if m.kind == "histogram"
        }

    def count(self, name: str, *labels: str) -> Count:
        cells = self._counts[name]
        cell = cells.get(labels)
        if cell is None:
            cell = cells[labels] = Count()
        return cell

    def buckets(self, name: str, *labels: str) -> Buckets:
        cells = self._buckets[name]
        cell = cells.get(labels)
        if cell is None:
            cell = cells[labels] = Buckets(BY_NAME[name].buckets)
        return cell

    def collect(self) -> Iterator[Metric]:
        for name, counts in self._counts.items():
            family = CounterMetricFamily(name, BY_NAME[name].help, labels=BY_NAME[name].labels)
            for labels, count in counts.items():
                family.add_metric(labels, count.value)
            yield family
        for name, cells in self._buckets.items():
            histogram = HistogramMetricFamily(name, BY_NAME[name].help, labels=BY_NAME[name].labels)
            for labels, cell in cells.items():
                histogram.add_metric(labels, *cell.told())
            yield histogram

"""Everything that was measured, and what is made of rounds: medians, and ratios within a round."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median

from tools.bench.cores import Cores

Figures = dict[str, float]


@dataclass(slots=True)
class Outcome:
    """Figures by round, then system. Not every system is in every round."""

    cores: Cores
    versions: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)  # what is missing, and why
    rounds: list[dict[str, Figures]] = field(default_factory=list)

    def median(self, system: str, figure: str) -> float | None:
        return _median(one[system].get(figure) for one in self.rounds if system in one)

    def ratio(self, figure: str, system: str, to: str) -> float | None:
        """The median of the rounds' ratios; of figures that were never taken in one round, the ratio of the medians."""
        within = _median(
            one[system][figure] / one[to][figure]
            for one in self.rounds
            if figure in one.get(system, {}) and one.get(to, {}).get(figure)
        )
        mine, theirs = self.median(system, figure), self.median(to, figure)
        return mine / theirs if within is None and mine is not None and theirs else within


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None

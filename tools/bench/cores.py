"""Who runs where: the system under test has a core to itself, mock and load generator never share it."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tools.bench.native import Missing


@dataclass(frozen=True, slots=True)
class Cores:
    system: int
    mock: int
    load: int

    @property
    def alone(self) -> bool:
        """Whether the system under test has its core to itself. Otherwise rates mean nothing."""
        return self.system != self.mock

    def __str__(self) -> str:
        return f"system on core {self.system}, mock on core {self.mock}, load on core {self.load}"


def cores() -> Cores:
    """Of those this process may use: three, if there are as many."""
    mine = sorted(os.sched_getaffinity(0))
    return Cores(mine[0], mine[min(1, len(mine) - 1)], mine[min(2, len(mine) - 1)])


def pinned(core: int, *command: str | Path) -> list[str | Path]:
    """A command line that runs on one core, with all its threads and children.

    Raises:
        Missing: there is no taskset.
    """
    taskset = shutil.which("taskset")
    if taskset is None:
        raise Missing("taskset (util-linux)")
    return [taskset, "--cpu-list", str(core), *command]


def machine() -> str:
    """Date, processor, cores, how busy they are now, and what runs on them, in a line."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    said = [
        datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        f"{model}, {len(os.sched_getaffinity(0))} cores, load average {load}",
        f"Linux {platform.release()}, Python {platform.python_version()}",
    ]
    return " · ".join(said)

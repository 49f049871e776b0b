"""Figures that a run has taken, for a RESULTS.md: each row is replaced when it is taken again, the others stay.

A row is written only by the long forms (CHAOS=1): a figure of a short form says nothing that is worth keeping.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from importlib import metadata
from pathlib import Path

from tests.support.scale import CHAOS

MARK = "<!-- figures -->"
_HEAD = "| goal | what | to reach | figure | taken |"
_TOOLS = {"nginx": ["nginx", "-v"], "haproxy": ["haproxy", "-v"], "slowhttptest": ["slowhttptest", "-h"]}


class Figures:
    """Rows of one file, which has words of its own above `MARK`."""

    def __init__(self, page: Path) -> None:
        self._page = page
        self._rows: dict[tuple[str, str], str] = {}

    def add(self, goal: str, what: str, to_reach: str, figure: str) -> None:
        print(f"\n{goal} {what}: {figure} (to reach: {to_reach})")  # noqa: T201 - figures are what it is for
        day = time.strftime("%Y-%m-%d")
        self._rows[goal, what] = f"| {goal} | {what} | {to_reach} | {figure} | {day} |"

    def write(self) -> None:
        if not CHAOS or not self._rows:
            return
        words, _, old = self._page.read_text().partition(MARK)
        rows: dict[tuple[str, str], str] = {}
        for line in old.splitlines():
            if line.startswith("| R"):
                _, goal, what, *_ = (cell.strip() for cell in line.split("|"))
                rows[goal, what] = line
        rows |= self._rows
        ordered = [rows[key] for key in sorted(rows)]
        lines = [MARK, "", f"Last taken on {described()}.", "", _HEAD, "|---|---|---|---|---|", *ordered]
        self._page.write_text(words + "\n".join(lines) + "\n")


def percentile(times: list[float], share: float) -> float:
    """The value that `share` of all are not over; of no values it is none."""
    return sorted(times)[min(len(times) - 1, int(len(times) * share))]


def milliseconds(times: list[float]) -> str:
    """The middle, the worst hundredth and the worst of times in seconds."""
    p50, p99 = percentile(times, 0.5) * 1000, percentile(times, 0.99) * 1000
    return f"p50 {p50:.2g} ms, p99 {p99:.2g} ms, max {max(times) * 1000:.2g} ms of {len(times):,}"


def described() -> str:
    """The machine and the versions of everything that has a part in the figures."""
    python = f"Python {platform.python_version()}"
    ours = [f"{name} {metadata.version(name)}" for name in ("uvloop", "httptools", "msgspec")]
    machine = f"{os.cpu_count()} cores of {_cpu()}, Linux {platform.release()}"
    return ", ".join([machine, python, *ours, *filter(None, map(_version, _TOOLS))])


def _cpu() -> str:
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.machine()


def _version(tool: str) -> str:
    try:
        said = subprocess.run(_TOOLS[tool], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    found = re.search(r"\d+\.\d+(\.\d+)?", said.stdout + said.stderr)
    return f"{tool} {found[0]}" if found else tool

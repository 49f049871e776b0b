"""Any program as a process of its own group, which ends with its owner, and what /proc says of processes."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tests.support.until import until

ROOT = Path(__file__).parents[2]
SOURCES = [str(path) for path in sorted((ROOT / "packages").glob("*/src"))]
STOP_S = 10.0
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def _die_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process' environment without anything that would configure a cortex process, plus `extra`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CORTEX_", "NEURON_"))}
    path = os.pathsep.join([*SOURCES, kept["PYTHONPATH"]] if kept.get("PYTHONPATH") else SOURCES)
    return {**kept, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", **(extra or {})}


def entry_point(module: str, *arguments: str) -> list[str]:
    """The command line that the installed script of `module:main` would run."""
    return [sys.executable, "-c", f"import sys; from {module} import main; sys.exit(main())", *arguments]


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; empty when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    return _stat(pid)[:1] not in ([], ["Z"])


def parent(pid: int) -> int:
    """The pid of its parent; 0 when it is gone."""
    stat = _stat(pid)
    return int(stat[1]) if stat else 0


def children(pid: int) -> list[int]:
    """Every living descendant of a process, parents first."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and (stat := _stat(int(entry.name))) and stat[0] != "Z":
            parents.setdefault(int(stat[1]), []).append(int(entry.name))
    found: list[int] = []
    waiting = list(parents.get(pid, ()))
    while waiting:
        child = waiting.pop(0)
        found.append(child)
        waiting += parents.get(child, ())
    return found


def rss_mb(pid: int) -> float:
    """Resident memory of one process, in megabytes of 2**20 bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(pid)


def cpu_s(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    stat = _stat(pid)
    return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")


class Process:
    """A process in a group of its own, whose output goes to a file."""

    def __init__(self, name: str, command: Sequence[str], log: Path, environ: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.command = list(command)
        self.log_path = log
        self._environ = environ
        self.inherits: Sequence[int] = ()  # descriptors
        self._process: subprocess.Popen[bytes] | None = None
        self._family: dict[int, str] = {}  # pid → its start, in ticks

    def start(self) -> None:
        assert not self.running, f"{self.name} runs already"
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(self._environ),
                cwd=self.log_path.parent,
                process_group=0,
                pass_fds=self.inherits,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - one call into the kernel, no lock is taken
            )

    @property
    def pid(self) -> int:
        assert self._process, f"{self.name} was never started"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout_s: float = STOP_S) -> int:
        """Its exit code; negative: the signal that ended it."""
        assert self._process, f"{self.name} was never started"
        return self._process.wait(timeout_s)

    def kill(self) -> None:
        """SIGKILL to the process itself, as the kernel's memory killer would: its children must see to themselves."""
        self._remember()
        self.signal(signal.SIGKILL)
        self.wait()

    def stop(self, timeout_s: float = STOP_S) -> int:
        """SIGTERM, and its exit code. What does not end in time is killed, and the test fails."""
        if not self.running:
            return self.wait()
        self._remember()
        self.signal(signal.SIGTERM)
        try:
            return self.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.end()
            problem = f"{self.name} did not end within {timeout_s} s of SIGTERM"
            raise AssertionError(f"{problem}\n{self.log[-4000:]}") from None

    def end(self) -> None:
        """Kill it and everything it is known to have started, whatever state it is in."""
        if self._process is None:
            return
        self._remember()
        for pid, born in self._family.items():
            if _stat(pid)[19:20] == [born]:  # the same process still, not a later one of its number
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._process.wait()
        until(lambda: not any(alive(pid) for pid in self._family), timeout_s=STOP_S, what=f"the end of {self.name}")
        self._family.clear()

    def _remember(self) -> None:
        """Note the processes of this one, which nobody finds any more once it is gone."""
        for pid in [*children(self.pid), self.pid] if self.running else []:
            if stat := _stat(pid):
                self._family[pid] = stat[19]

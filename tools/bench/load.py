"""One run of the load generator, and what the system under test spent on it."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.bench.cores import Cores, pinned
from tools.bench.native import build
from tools.bench.processes import cpu_s, rss_mb
from tools.bench.systems import System

GRACE_S = 60.0  # beyond the time that was asked for: what has begun is read to its end


class Failed(Exception):
    """The system under test did not answer as it should."""


@dataclass(frozen=True, slots=True)
class Ran:
    """What came of a run."""

    requests: int
    events: int
    seconds: float
    cpu_s: float  # of the system under test
    ttft_p50_ms: float
    ttft_p99_ms: float

    @property
    def requests_per_s(self) -> float:
        return self.requests / self.seconds

    @property
    def events_per_s(self) -> float:
        return self.events / self.seconds

    @property
    def cpu_us_per_request(self) -> float:
        return self.cpu_s / self.requests * 1e6

    @property
    def cpu_us_per_event(self) -> float:
        return self.cpu_s / self.events * 1e6


class Load:
    """Runs load against systems, pinned to its core if there are `cores`. Bodies are written into `folder`."""

    def __init__(self, folder: Path, cores: Cores | None) -> None:
        self._folder = folder
        self._cores = cores

    def run(self, system: System, body: bytes, connections: int, seconds: float, *options: str) -> Ran:
        """One run, after which every request has ended.

        Raises:
            Failed: an answer was not 200, or not whole.
        """
        command = self._command(system, body, connections, seconds, *options)
        before = cpu_s(system.pids)
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + GRACE_S, check=False)
        spent_s = cpu_s(system.pids) - before
        if done.returncode != 0:
            raise Failed(f"{system.name}: {done.stderr.strip()}")
        said: dict[str, Any] = json.loads(done.stdout)
        if said["bad"] or not said["ok"]:
            raise Failed(f"{system.name}: {said['bad']} of {said['ok'] + said['bad']} failed: {said['problem']}")
        return Ran(said["ok"], said["events"], said["seconds"], spent_s, said["ttft_p50_ms"], said["ttft_p99_ms"])

    def rss_mb_with_open(self, system: System, body: bytes, streams: int, timeout_s: float = GRACE_S) -> float:
        """Resident memory while so many streams have all begun and none has ended.

        Raises:
            Failed: they did not all begin.
        """
        command = self._command(system, body, streams, timeout_s, "stream", "hold")
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            said = process.stdout.readline()
            held_mb = rss_mb(system.pids)
            process.stdin.close()
        if not said or json.loads(said)["open"] != streams:
            raise Failed(f"{system.name}: of {streams} streams were open: {said}")
        return held_mb

    def _command(
        self, system: System, body: bytes, connections: int, seconds: float, *options: str
    ) -> list[str | Path]:
        path = self._folder / "request.json"
        path.write_bytes(body)
        arguments: list[str | Path] = [str(system.port), path, str(connections), str(seconds), *options]
        command = [build("load"), *arguments]
        return command if self._cores is None else pinned(self._cores.load, *command)

"""The processes that the demo starts. All of them end with it: orderly, by Ctrl-C or kill, even by kill -9."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

LEASH = Path(__file__).with_name("leash.py")
STOP_S = 20.0  # for an orderly end, after which the group is killed
LAST_LINES = 15


@dataclass(frozen=True, slots=True)
class Child:
    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def last_lines(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-LAST_LINES:])


@dataclass(slots=True)
class Children:
    """Owner of the processes. Use it in the main thread only: they die with the thread that started them."""

    logs: Path
    environment: dict[str, str]
    stop_s: float = STOP_S
    _children: list[Child] = field(default_factory=list)

    def start(self, name: str, *command: str | Path) -> Child:
        """Start a process in a session of its own, so that the terminal's Ctrl-C reaches us alone."""
        log = self.logs / f"{name}.log"
        leash: list[str | Path] = [sys.executable, "-S", LEASH, str(os.getpid())]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*leash, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self.environment,
                start_new_session=True,
            )
        child = Child(name, process, log)
        self._children.append(child)
        return child

    def dead(self) -> Child | None:
        """One that has ended though nobody asked it to."""
        return next((child for child in self._children if child.ended), None)

    def stop(self) -> None:
        """End all, the last started first, and wait until each is gone with its whole group."""
        for child in reversed(self._children):
            if not child.ended:
                child.process.terminate()
        deadline = time.monotonic() + self.stop_s
        for child in reversed(self._children):
            try:
                child.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                pass
            try:
                os.killpg(child.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # the whole group is gone, as it should be
            child.process.wait()
        self._children.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

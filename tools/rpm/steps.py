"""A run of named steps: each is timed, says what it found, and may fail or be skipped, aloud."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Sequence


class Failed(Exception):
    """A step does not hold; the text says what does not."""


class Skipped(Exception):
    """A step cannot be taken here; the text says what is missing."""


class Steps:
    """Takes steps until one fails; a skipped one is told and counted."""

    def __init__(self) -> None:
        self.failed: list[str] = []
        self.skipped: list[str] = []
        self._began = time.monotonic()

    def take(self, name: str, step: Callable[[], str]) -> bool:
        """Whether it held; a step after one that failed still is taken, for all that is wrong is told at once."""
        began = time.monotonic()
        try:
            mark, said = "✓", step()
        except Skipped as reason:
            mark, said = "–", f"skipped: {reason}"
            self.skipped.append(name)
        except (Failed, subprocess.SubprocessError, OSError) as error:
            mark, said = "✗", str(error)
            self.failed.append(name)
        print(f"  {mark} {name:<12} {time.monotonic() - began:5.1f} s  {said}", flush=True)
        return mark == "✓"

    def end(self) -> int:
        seconds = time.monotonic() - self._began
        print(f"{seconds:.1f} s in all" + (f"; skipped: {', '.join(self.skipped)}" if self.skipped else ""))
        if self.failed:
            print(f"FAILED: {', '.join(self.failed)}")
        return bool(self.failed)


def tool(name: str, package: str = "") -> str:
    """The path of a program. Raises Skipped."""
    path = shutil.which(name)
    if path is None:
        raise Skipped(f"{name} is not installed (Debian: apt install {package or name})")
    return path


def run(command: Sequence[object], *, timeout_s: float = 120.0, env: dict[str, str] | None = None) -> str:
    """What a program prints. Raises Failed with its last lines."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=timeout_s, env=env, check=False
    )
    if done.returncode:
        said = "\n    ".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise Failed(f"{' '.join(map(str, command[:6]))} ended with {done.returncode}:\n    {said}")
    return done.stdout

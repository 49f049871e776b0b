"""All tests in lanes, one pytest each, side by side: those of real processes mostly wait.

What a lane prints is shown whole, lane after lane, so that a report reads as if there had been one run.
"""

from __future__ import annotations

import re
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from tools.runner.environment import ROOT, variables

PROCESSES = ("tests/e2e", "tests/neuron")
LANES = (*((folder,) for folder in PROCESSES), ("tests", *(f"--ignore={folder}" for folder in PROCESSES)))
SUMMARY = re.compile(r"^(=+ )?(\d+ \w+.*|no tests ran) in ([\d.]+)s( \([\d:]+\))?( =+)?$")  # pytest's last line
STOP_S = 10
NO_TESTS = 5  # pytest's exit code: nothing was collected


class Lane:
    """One run of pytest, under way."""

    def __init__(self, python: Path, arguments: Sequence[str]) -> None:
        command = [str(python), "-m", "pytest", *arguments]
        self._process = subprocess.Popen(command, cwd=ROOT, env=variables(), stdout=subprocess.PIPE, text=True)
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def lines(self) -> Iterator[str]:
        """What it prints, as it comes, to its end."""
        while (line := self._lines.get()) is not None:
            yield line

    def code(self) -> int:
        return self._process.wait()

    def end(self) -> None:
        """Interrupt it if it still runs, as Ctrl-C would: its fixtures end what they started."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout:
            for line in self._process.stdout:
                self._lines.put(line.rstrip("\n"))
        self._lines.put(None)


def run(python: Path, arguments: list[str]) -> tuple[int, list[str]]:
    """Run all tests, or one pytest with these arguments; the exit code and all that was printed."""
    lanes = [Lane(python, lane) for lane in ([arguments] if arguments else LANES)]
    printed = []
    try:
        for lane in lanes:
            for line in lane.lines():
                print(line, flush=True)
                printed.append(line)
        return worst([lane.code() for lane in lanes]), printed
    finally:
        for lane in lanes:
            lane.end()


def worst(codes: Sequence[int]) -> int:
    """The exit code of several runs of pytest: where one has tests, another may have none."""
    return max((code for code in codes if code != NO_TESTS), key=abs, default=NO_TESTS)


def summary(lines: Sequence[str]) -> str:
    """pytest's last lines as one: counts added up, and the longest lane's seconds."""
    counts: Counter[str] = Counter()
    seconds = 0.0
    for found in filter(None, map(SUMMARY.match, lines)):
        seconds = max(seconds, float(found[3]))
        counts.update({word: int(number) for number, word in re.findall(r"(\d+) (\w+)", found[2])})
    told = ", ".join(f"{number} {word}" for word, number in counts.items()) or "no tests ran"
    return f"{told} in {seconds:.0f} s"

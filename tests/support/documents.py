"""Documents as something to run: their blocks, the commands in them, and whether an output is the one that is shown.

A block of ```console has commands after `$ `, and below each what it prints. `…` in it stands for anything, and every
number for any number. A line `<!-- file: PATH -->` before a block says where a person would put its text.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

_FENCE = re.compile(
    r"(?ms)(?:^<!-- file: (?P<file>\S+) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$|^#+ (?P<heading>[^\n]+)$"
)


class Block(NamedTuple):
    """One fenced block."""

    heading: str
    language: str
    text: str
    file: str


class Command(NamedTuple):
    line: str  # as typed, continuation lines included
    shown: str  # what it is said to print


def blocks(document: Path) -> list[Block]:
    """In their order, each with the heading above it."""
    found, heading = [], ""
    for match in _FENCE.finditer(document.read_text()):
        if match["heading"]:
            heading = match["heading"]
        else:
            found.append(Block(heading, match["language"], match["text"], match["file"] or ""))
    return found


def commands(block: Block) -> list[Command]:
    """Of a ```console block."""
    found: list[Command] = []
    for part in re.split(r"(?m)^\$ ", block.text)[1:]:
        typed: list[str] = []
        lines = part.splitlines()
        while lines:
            typed.append(lines.pop(0))
            if not typed[-1].endswith("\\"):
                break
        found.append(Command("\n".join(typed), "\n".join(lines)))
    return found


def is_shown(shown: str, printed: str) -> bool:
    """Whether a program printed what the document shows."""
    pattern = re.escape(shown.strip()).replace(re.escape("…"), ".*?")
    pattern = re.sub(r"(?:\d+)(?:\\\.\d+)?", r"[\\d.]+", pattern)
    pattern = re.sub(r"(?:\\ ){2,}", r" +", pattern)  # columns are as wide as what is in them
    return re.fullmatch(pattern, printed.strip(), re.DOTALL) is not None


class Person:
    """Someone who follows a document at a shell, in a home of their own.

    Args:
        instead: what stands in the document → what it is here (addresses, say).
    """

    def __init__(
        self, home: Path, path: Sequence[Path], instead: Mapping[str, str], environ: Mapping[str, str]
    ) -> None:
        self.home = home
        self._instead = instead
        self._environ = {**environ, "HOME": str(home), "PATH": ":".join(map(str, [*path, "/usr/bin", "/bin"]))}
        self._exports: list[str] = []

    def here(self, text: str) -> str:
        for written, real in self._instead.items():
            text = text.replace(written, real)
        return text

    def puts(self, block: Block) -> None:
        """The block's text into the file that it is for."""
        path = self.home / block.file.removeprefix("~/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.here(block.text))

    def types(self, line: str, timeout_s: float = 60.0) -> str:
        """What a command prints. What it exports stays. A command that fails is an AssertionError."""
        if line.startswith("export "):
            self._exports.append(self.here(line))
            return ""
        script = "\n".join([*self._exports, self.here(line)])
        ran = self.runs(["bash", "-c", script], timeout_s)
        assert ran.returncode == 0, f"{line}\n{ran.stdout}{ran.stderr}"
        return ran.stdout

    def runs(self, command: Sequence[object], timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(part) for part in command],
            cwd=self.home, env=self._environ, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip

    def follows(self, block: Block, timeout_s: float = 60.0) -> None:
        """Every command of a block, its output compared."""
        for command in commands(block):
            printed = self.types(command.line, timeout_s)
            assert is_shown(command.shown, printed), f"{command.line}\nshown:\n{command.shown}\nprinted:\n{printed}"

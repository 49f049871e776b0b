"""What the two commands print: one line for each step, with its seconds, and a sign of life while a step is long."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

HEARTBEAT_S = 10  # between signs of life where lines cannot be rewritten
WIDTH = 100


class Line:
    """A step under way: what it says of itself may be told or changed until it ends."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.detail = ""


@contextmanager
def step(text: str) -> Iterator[Line]:
    """Print `text` when its block has ended, with the seconds it took; a failure is marked and passed on."""
    line, started, ended = Line(text), time.monotonic(), threading.Event()
    alive = threading.Thread(target=_show_life, args=(line, started, ended), daemon=True)
    alive.start()
    mark = "✗"
    try:
        yield line
        mark = "✓"
    finally:
        ended.set()
        alive.join()
        _print(mark, line, time.monotonic() - started)


def say(text: str = "") -> None:
    print(text, flush=True)


def _show_life(line: Line, started: float, ended: threading.Event) -> None:
    rewritable = sys.stdout.isatty()
    while not ended.wait(1 if rewritable else HEARTBEAT_S):
        seconds = f"{time.monotonic() - started:.0f} s"
        text = f"  … {line.text} {line.detail}".rstrip()
        if rewritable:
            print(f"\r{text[: WIDTH - 10]} {seconds}\x1b[K", end="", flush=True)
        else:
            print(f"{text} ({seconds})", flush=True)


def _print(mark: str, line: Line, seconds: float) -> None:
    text = f"  {mark} {line.text}" + (f": {line.detail}" if line.detail else "")
    rewind = "\r\x1b[K" if sys.stdout.isatty() else ""
    print(f"{rewind}{text:<{WIDTH - 8}} {seconds:6.1f} s", flush=True)

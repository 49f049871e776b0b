"""How far an installation is: one line that changes on a terminal, else a line for each step and each quarter of it."""

from __future__ import annotations

import shutil
import time
from types import TracebackType
from typing import Self, TextIO

BAR = 24


class Progress:
    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._live = out.isatty()
        self._step, self._quarter, self._began = "", -1, time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._out.write("\r\x1b[K")
        if error is None:
            self._out.write(f"  done after {time.monotonic() - self._began:.0f} s\n")
        self._out.flush()

    def tell(self, what: str, share: float) -> None:
        """`what` begins with the step's name; the rest of it is detail."""
        seconds = time.monotonic() - self._began
        if self._live:
            filled = round(share * BAR)
            bar = f"[{'#' * filled}{' ' * (BAR - filled)}] " if share else ""
            width = shutil.get_terminal_size().columns - 1
            self._out.write("\r\x1b[K" + f"  {seconds:4.0f} s  {bar}{what}"[:width])
        else:
            step, quarter = what.partition(" ")[0], int(share * 4)
            if (step, quarter) == (self._step, self._quarter):
                return
            self._step, self._quarter = step, quarter
            self._out.write(f"  {seconds:4.0f} s  {what}" + (f", {share:.0%}\n" if share else "\n"))
        self._out.flush()

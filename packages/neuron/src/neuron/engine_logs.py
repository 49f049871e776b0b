"""What engines print, kept within bounds: the last words of those that ended badly, and the tail of those that run."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

KEPT = 20  # of engines that ended badly
SIZE_MOST = 16 << 20  # bytes of one
TAIL = 1 << 20  # bytes that are left of a larger one


def prune(folder: Path, in_use: Collection[Path]) -> None:
    """Remove the oldest of those that nobody writes to any more, and cut short what has grown too large. Blocks."""
    found = []
    for path in folder.glob("*.log"):
        try:
            stat = path.stat()
            if stat.st_size > SIZE_MOST:
                _keep_tail(path)
        except FileNotFoundError:
            continue  # its replica is gone
        if path not in in_use and not path.name.startswith("zygote-"):
            found.append((stat.st_mtime, path))
    for _, path in sorted(found)[:-KEPT]:
        path.unlink(missing_ok=True)


def _keep_tail(path: Path) -> None:
    """Its writers append, so they go on behind the tail; what they print this very moment may be lost."""
    with path.open("r+b", buffering=0) as file:
        file.seek(-TAIL, os.SEEK_END)
        tail = file.read(TAIL).partition(b"\n")[2]
        file.truncate(0)
    with path.open("ab") as file:
        file.write(tail)

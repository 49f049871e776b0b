"""What killed processes of ours leave behind, and how it is told from everybody else's: sockets and shared memory."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
_OURS = re.compile(r"neuron-(\d+)-.+")  # named so in zygote/child.py, by process group
_OPENMP = re.compile(r"__KMP_REGISTERED_LIB_(\d+)_(\d+)")  # Intel's and LLVM's OpenMP, by process and user


def sweep(run_dir: Path) -> list[Path]:
    """Remove what earlier runs left in `run_dir` and in shared memory. For the start, before anything is loaded.

    Returns what was removed. Sockets that somebody still listens on, and memory of living process groups, stay.
    """
    removed = []
    for path in sorted(run_dir.glob("*.sock")):
        folder = path.with_suffix(".d")
        if not _answers(path):
            path.unlink(missing_ok=True)
            removed.append(path)
            if folder.is_dir():
                shutil.rmtree(folder, ignore_errors=True)
                removed.append(folder)
    for folder in sorted(run_dir.glob("*.d")):
        if not folder.with_suffix(".sock").exists():
            shutil.rmtree(folder, ignore_errors=True)
            removed.append(folder)
    for path in _shared_memory():
        path.unlink(missing_ok=True)
        removed.append(path)
    return removed


def remove_shared_memory(group: int) -> None:
    """Remove what an ended process group of ours left in shared memory."""
    for path in SHARED_MEMORY.glob(f"neuron-{group}-*"):
        path.unlink(missing_ok=True)


def _shared_memory() -> list[Path]:
    found = []
    for path in SHARED_MEMORY.iterdir() if SHARED_MEMORY.is_dir() else ():
        if ours := _OURS.fullmatch(path.name):
            stale = not _lives(int(ours[1]))
        elif openmp := _OPENMP.fullmatch(path.name):
            stale = int(openmp[2]) == os.getuid() and not _lives(int(openmp[1]))
        else:
            continue
        with contextlib.suppress(FileNotFoundError):
            if stale and path.stat().st_uid == os.getuid():
                found.append(path)
    return sorted(found)


def _lives(pid: int) -> bool:
    """Whether a process runs. A zombie does not, and whatever it led has been killed with it."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True

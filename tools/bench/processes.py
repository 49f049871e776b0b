"""What a process and its children have cost: processor time and memory, as the kernel counts them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def family(*pids: int) -> list[int]:
    """Processes and all their living descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and (stat := _stat(int(entry.name))):
            children.setdefault(int(stat[1]), []).append(int(entry.name))
    found = list(pids)
    for one in found:
        found += children.get(one, [])
    return found


def cpu_s(pids: Iterable[int]) -> float:
    """Processor seconds, user and system, of families; of ended children as far as they were waited for."""
    # proc(5): utime, stime, cutime, cstime are fields 14 to 17, and `_stat` begins with the third.
    return sum(sum(map(int, stat[11:15])) for one in family(*pids) if (stat := _stat(one))) / TICKS_PER_S


def own_cpu_s(pid: int) -> float:
    """Processor seconds of one process, without its children."""
    return sum(map(int, _stat(pid)[11:13])) / TICKS_PER_S


def own_rss_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def rss_mb(pids: Iterable[int]) -> float:
    """Resident megabytes (2**20 bytes) of families; what members share is counted for each."""
    pages = 0
    for one in family(*pids):
        try:
            pages += int(Path(f"/proc/{one}/statm").read_text().split()[1])
        except OSError:
            continue  # it has ended
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on; empty when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []

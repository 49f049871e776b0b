"""What a process and its children have cost: processor time and memory, as the kernel counts them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_SCHED = 2  # of the clocks that clock_getcpuclockid(3) gives: what the scheduler counts, in nanoseconds


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
    # proc(5): cutime and cstime are fields 16 and 17, and `_stat` begins with the third.
    members = family(*pids)
    ended_s = sum(sum(map(int, stat[13:15])) for one in members if (stat := _stat(one))) / TICKS_PER_S
    return ended_s + sum(map(own_cpu_s, members))


def own_cpu_s(pid: int) -> float:
    """Processor seconds of one process, without its children: finer than the ticks of /proc/PID/stat, of which a second
    at a low rate has too few. 0.0 when there is no such process."""
    try:
        return time.clock_gettime(~pid << 3 | _SCHED)
    except OSError:
        return 0.0


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

"""Die with the parent: what keeps a killed daemon, zygote or engine host from leaving processes behind."""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1  # prctl(2)
_PR_SET_CHILD_SUBREAPER = 36


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option})")


def die_with_parent(pid: int) -> None:
    """Be killed when the parent `pid` ends, and at once if it already has.

    Linux ties this to the parent's *thread* that forked: fork from main threads only.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != pid:
        os._exit(1)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent died, so that their end can be told."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)

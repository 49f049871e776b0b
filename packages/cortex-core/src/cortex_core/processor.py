"""How eagerly a process takes the processor when it is woken (sched(7))."""

from __future__ import annotations

import contextlib
import os


def wait_for_turn() -> None:
    """For a daemon: SCHED_BATCH, unless an operator chose a policy.

    Woken for each event, it took its processor from the very process that is sending them, an engine or another
    gateway. So it waits until that one sleeps, and finds more to do at once: which takes less time for each.
    """
    _change(os.SCHED_OTHER, os.SCHED_BATCH)


def take_turn_at_once() -> None:
    """For what a daemon starts and is none itself: it has inherited the policy."""
    _change(os.SCHED_BATCH, os.SCHED_OTHER)


def _change(usual: int, wanted: int) -> None:
    with contextlib.suppress(PermissionError):  # a sandbox may forbid it: then it costs more
        if os.sched_getscheduler(0) == usual:
            os.sched_setscheduler(0, wanted, os.sched_param(0))

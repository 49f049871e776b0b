"""Who takes the processor at once when it is woken: engines do, daemons do not, and an operator's word stands."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import os
from cortex_core.http import run
from cortex_core.processor import take_turn_at_once

async def policy():
    return os.sched_getscheduler(0)

os.sched_setscheduler(0, {given}, os.sched_param(0))
daemon = run(policy())
take_turn_at_once()
print(daemon, os.sched_getscheduler(0))
"""
OTHER, BATCH, IDLE = 0, 3, 5  # sched(7)


@pytest.mark.parametrize(
    ("given", "daemon", "engine"), [(OTHER, BATCH, OTHER), (BATCH, BATCH, OTHER), (IDLE, IDLE, IDLE)]
)
def test_a_daemon_waits_for_its_turn_and_what_it_starts_does_not(given: int, daemon: int, engine: int) -> None:
    command = [sys.executable, "-c", PROGRAM.format(given=given)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.split() == [str(daemon), str(engine)]

"""Drawn scenarios: a small fleet under more than it can hold, in trouble, with every invariant at each step.

A failure names its seed; `python -m cortex_gateway.sim SEED` replays it.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time

import pytest

from cortex_gateway.sim import drawn, simulate

EXPLORE = bool(os.environ.get("EXPLORE"))  # else a plain run plays the same seeds each time
SECONDS = float(os.environ.get("CORTEX_SIM_SECONDS", "10"))  # read before a test's environment is cleared

FOUND = {
    14: "a gateway that was told `full` while it held nothing never asked again",
    136: "a request past its time got lease after lease, each refused",
    112: "a link polled a dead neuron without waiting",
    1476: "a connection was severed twice in one moment",
    5000468: "a load overtook the requests that had just been sent to its victim",
    9001: "a replica that a cordon had kept from its waiters was let go as idle when the cordon ended",
    37090: "a replica was let go in the moment in which the partition healed behind which its waiters were",
    5001528: "models that are to be kept, and do not fit together, took turns for ever while another waited",
}
"""Seeds that failed once, and what they found. The draw has changed since for some: they cost nothing."""


@pytest.mark.parametrize("seed", FOUND)
def test_a_seed_that_failed_once(seed: int) -> None:
    simulate(drawn(seed), seed)


def test_drawn_seeds_hold_every_invariant() -> None:
    first = random.SystemRandom().randrange(1 << 30) if EXPLORE else 1_000_000
    until = time.monotonic() + SECONDS
    played = served = 0
    while time.monotonic() < until:
        served += simulate(drawn(first + played), first + played).outcomes.get("served", 0)
        played += 1
    assert served > 10 * played, f"{served} requests served in {played} seeds from {first}"


def test_a_seed_is_replayed_exactly() -> None:
    assert simulate(drawn(7), 7) == simulate(drawn(7), 7)


def test_a_seed_is_replayed_exactly_in_another_process() -> None:
    """Hashes of strings differ between processes, and with them the order of sets."""
    told = {
        subprocess.run(
            [sys.executable, "-m", "cortex_gateway.sim", "7"],
            env={**os.environ, "PYTHONHASHSEED": str(salt), "PYTHONPATH": os.pathsep.join(sys.path)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for salt in (1, 2)
    }
    assert len(told) == 1
    assert told.pop().startswith("seed 7: ")

"""Lets the pieces of many streams gather before the loop looks again, as a network card lets packets do.

Tokens of many streams come one by one, and each wakes the process: to wake, to look, and to wake the reader costs more
than to pass a token on (64 streams × 100 tokens/s: 29 us a token, 20 with this). So a loop to which pieces come thick
and fast sleeps for half a millisecond after it has passed some on, and then finds several. It does not when enough came
at once, when a turn had other things to do, or when pieces are rare: none waits for company that will not come.

The whole loop sleeps, hence the bound: what arrives meanwhile, a new request too, is seen up to that much later.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

REST_S = 0.0005
ENOUGH = 8  # pieces in one turn of the loop: what waking costs is then shared already


def worth_a_rest(pieces: int, elapsed_s: float) -> bool:
    """Whether a rest would find at least two pieces, if they go on to come as `pieces` did in `elapsed_s`."""
    return pieces < ENOUGH and elapsed_s * 2 < pieces * REST_S


class Moderation:
    """Of one event loop. Whoever passes on a piece of a stream under way tells it."""

    __slots__ = ("_clock", "_pieces", "_since", "_sleep")

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._pieces = 0  # in this turn of the loop
        self._since = clock()  # the end of the last turn that passed some, and of its rest

    def passed(self) -> None:
        self._pieces += 1
        if self._pieces == 1:
            asyncio.get_running_loop().call_soon(self._rest)  # when what was written in this turn has left

    def _rest(self) -> None:
        now, pieces = self._clock(), self._pieces
        self._pieces = 0
        if worth_a_rest(pieces, now - self._since):
            self._sleep(REST_S)
            now = self._clock()
        self._since = now

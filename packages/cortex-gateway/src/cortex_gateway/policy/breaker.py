"""Which replicas to keep away from for a while: those that fail by their own fault, five times in a row.

Only 5xx and transport faults count; a client's mistake says nothing of a replica. One request probes after a pause.
The last replica of a model is never left out: then a failing one is better than none.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, structs

FAILURES = 5
OPEN_S, OPEN_MAX_S = 5.0, 30.0


class Breaker(Struct, frozen=True):
    """The record of one replica. None is closed and clean, which a success makes it again."""

    failures: int = 0  # in a row
    open_until: float = 0.0
    opened: int = 0  # times in a row
    probing: bool = False


def after_failure(breaker: Breaker | None, now: float) -> Breaker:
    """A failed probe opens at once, for longer; otherwise the fifth failure in a row does."""
    before = breaker or Breaker()
    failures = before.failures + 1
    if not before.probing and failures < FAILURES:
        return structs.replace(before, failures=failures)
    pause_s = min(OPEN_S * 2**before.opened, OPEN_MAX_S)
    return Breaker(failures=failures, open_until=now + pause_s, opened=before.opened + 1)


def state(breaker: Breaker | None, now: float) -> Literal["closed", "open", "probe", "probing"]:
    """`probe`: one request may go and tell; `probing`: one is out."""
    if breaker is None or not breaker.open_until:
        return "closed"
    if now < breaker.open_until:
        return "open"
    return "probing" if breaker.probing else "probe"

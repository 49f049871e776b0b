"""Whose slot is next, among gateways that wait for the same replica: each by what it has waiting.

Start-time fair queueing (Goyal, Vin & Cheng 1996). Neither the nearest gateway nor the one that asks most often gets
more than its share, and one that has little waiting is not starved.
"""

from __future__ import annotations


class Shares:
    """Gateways that wait, each with the moment at which its next turn comes, in a time that runs with the turns."""

    __slots__ = ("_due", "_now")

    def __init__(self) -> None:
        self._due: dict[str, float] = {}
        self._now = 0.0

    def join(self, gateway: str, waiting: int) -> None:
        """It waits from now on, or still does: its next turn comes the sooner, the more it has waiting."""
        self._due.pop(gateway, None)  # among equals the one that has not had its turn stands first
        self._due[gateway] = self._now + 1.0 / max(1, waiting)

    def leave(self, gateway: str) -> None:
        """It waits no more."""
        self._due.pop(gateway, None)

    def next(self) -> str:
        """Whose turn it is. It has it: it joins again, or leaves."""
        gateway = min(self._due, key=self._due.__getitem__)
        self._now = self._due[gateway]
        return gateway

    def clear(self) -> None:
        self._due.clear()

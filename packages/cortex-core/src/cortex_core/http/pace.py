"""How slow a client may be, as values: no loop, no clock of its own. Times are seconds of one monotonic clock."""

from __future__ import annotations

from cortex_core.http.limits import Limits


class BodyPace:
    """Of a request's body: some grace, then a rate, and a limit on the whole. The app's own pauses do not count."""

    __slots__ = ("_paused_at", "_since", "size")

    def __init__(self) -> None:
        self._since: float | None = None  # None: its sender waits to be told to go on
        self._paused_at: float | None = None
        self.size = 0  # bytes that have come

    def begin(self, now: float) -> None:
        if self._since is None:
            self._since = now

    @property
    def paused(self) -> bool:
        return self._paused_at is not None

    def pause(self, now: float) -> None:
        self._paused_at = now

    def resume(self, now: float) -> None:
        if self._paused_at is not None and self._since is not None:
            self._since += now - self._paused_at
        self._paused_at = None

    def is_too_slow(self, now: float, limits: Limits) -> bool:
        if self._since is None or self._paused_at is not None:
            return False
        taken = now - self._since
        return taken > limits.body_timeout_s or taken > limits.body_grace_s + self.size / limits.body_bytes_per_s


class ReaderPace:
    """Of a reader that is behind: it must take as much as a write buffer holds within the stall limit."""

    __slots__ = ("_since", "_unsent")

    def __init__(self, now: float, unsent: int) -> None:
        self._since = now
        self._unsent = unsent

    def is_stalled(self, now: float, unsent: int, limits: Limits) -> bool:
        """`unsent` is what still waits for it; one byte at a time is a stall too."""
        if unsent <= self._unsent - limits.write_bytes:
            self._unsent = unsent
            self._since = now
        return now - self._since > limits.write_stall_s

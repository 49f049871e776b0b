"""What a streaming client hears while there is nothing to hear.

The head of an answer is withheld until its first event, but only until the request's own clock runs out: then it is
committed, because clients give up on a silent connection soon after (protocol K-03). Once it is out, gaps are bridged
(K-04). One timer looks now and then, so that a token costs no timer of its own.
"""

from __future__ import annotations

import asyncio
import time

from cortex_core.http import EVENT_STREAM_HEADERS, EventStream
from cortex_gateway.relay.call import Call

KEEP_ALIVE_S = 15.0


class Silence:
    """Belongs to one answer; `close` it. Whoever writes to the client says `broken()`."""

    __slots__ = ("_broken_at", "_call", "_kept_alive", "_out", "_speaking", "_timer")

    def __init__(self, call: Call, out: EventStream) -> None:
        self._call = call
        self._out = out
        self._broken_at = 0.0
        self._kept_alive = 0
        self._speaking: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(_soon(self._left_s()), self._look)

    async def start(self) -> None:
        """The head, unless it is out."""
        if not self._out.started:
            self._call.release()
            await self._out.start(200, [*EVENT_STREAM_HEADERS, *self._call.headers])

    def broken(self) -> float:
        """The client is about to hear something. Gives the time."""
        self._broken_at = time.monotonic()
        self._kept_alive = 0
        return self._broken_at

    async def close(self) -> None:
        self._timer.cancel()
        if self._speaking is not None:
            self._speaking.cancel()
            await asyncio.wait((self._speaking,))

    def _left_s(self) -> float:
        """How much longer the client may hear nothing."""
        if self._out.started:
            return self._broken_at + KEEP_ALIVE_S - time.monotonic()
        return self._call.want.arrived + self._call.want.hold_s - time.monotonic()

    def _look(self) -> None:
        loop, left_s = asyncio.get_running_loop(), self._left_s()
        if left_s <= 0 and (self._speaking is None or self._speaking.done()):  # not done: the client does not read
            self._speaking = loop.create_task(self._speak(), name=f"keep alive {self._call.record.request_id}")
        self._timer = loop.call_later(_soon(left_s), self._look)

    async def _speak(self) -> None:
        await self.start()
        self._broken_at = time.monotonic()
        self._kept_alive += 1
        await self._out.write(self._call.rendering.keep_alive(self._kept_alive))


def _soon(left_s: float) -> float:
    """When to look again: the head may go out at any time, and then another clock counts."""
    return min(left_s, KEEP_ALIVE_S) if left_s > 0 else KEEP_ALIVE_S

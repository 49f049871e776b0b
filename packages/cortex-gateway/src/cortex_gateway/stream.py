"""A streamed answer: bytes from the engine to the client, up to an end that is clean only if the engine said so."""

from __future__ import annotations

import time

from cortex_core.errors import CortexError
from cortex_core.http import EVENT_STREAM_HEADERS, BrokenResponse, EventStream, Response
from cortex_gateway.call import Call
from cortex_gateway.policy.faults import engine_error
from cortex_gateway.policy.usage import EventTooLarge, StreamTap


async def pass_on(call: Call, upstream: Response) -> None:
    """Answer `call` with the stream of `upstream`, whose status is 200.

    Raises:
        CortexError: it failed before the first event, and nothing has been sent.
        BrokenResponse: likewise, and it was certainly not executed.
    """
    tap = StreamTap(strip_usage=call.wanted.strip_usage)
    async with EventStream(call.send, call.last_words) as out:
        try:
            await _Passage(call, upstream, tap, out).run()
        except CortexError as error:
            if not out.started:
                raise
            await out.abort(call.last_words(error))
        finally:
            call.record.usage, call.record.finish_reason = tap.counted(), tap.finish_reason


class _Passage:
    __slots__ = ("_call", "_out", "_tap", "_upstream")

    def __init__(self, call: Call, upstream: Response, tap: StreamTap, out: EventStream) -> None:
        self._call = call
        self._upstream = upstream
        self._tap = tap
        self._out = out

    async def run(self) -> None:
        tap = self._tap
        while data := await self._more():
            try:
                events = tap.feed(data)
            except EventTooLarge:
                raise CortexError("upstream_failed", "the engine sent an event without end") from None
            if events:
                await self._start()
                if tap.done and self._upstream.complete:
                    await self._out.end(events)
                    return
                await self._out.write(events)
            if tap.error is not None:
                raise engine_error(tap.error, self._call.dialect)
        await self._finish()

    async def _more(self) -> bytes:
        """Whatever has come; b"" at the end, which a break behind the terminal event is too."""
        try:
            return await self._upstream.read_some()
        except BrokenResponse as broken:
            if self._tap.done:
                return b""
            if broken.executed == "no":
                raise
            raise CortexError(
                "upstream_failed", "the connection to the engine broke in the middle of the answer"
            ) from broken

    async def _start(self) -> None:
        """With the first events the head leaves, and with the first content the clock stops."""
        call = self._call
        if not self._out.started:
            call.release()
            await self._out.start(200, [*EVENT_STREAM_HEADERS, *call.headers])
        if self._tap.content and not call.record.first_content:
            call.record.first_content = time.monotonic()

    async def _finish(self) -> None:
        """The engine's connection ended cleanly: the answer did only if the terminal event is there."""
        tap = self._tap
        rest = tap.end()
        if tap.error is not None:
            raise engine_error(tap.error, self._call.dialect)
        if not tap.done:
            raise CortexError("upstream_failed", "the engine's answer ended in the middle")
        await self._start()
        await self._out.end(rest)

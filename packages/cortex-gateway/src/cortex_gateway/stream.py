"""A streamed answer: bytes from the engine to the client, up to an end that is clean only if the engine said so."""

from __future__ import annotations

import time

from cortex_core.errors import CortexError
from cortex_core.http import EVENT_STREAM_HEADERS, BrokenResponse, EventStream, Response
from cortex_gateway.call import Call
from cortex_gateway.policy.faults import engine_error
from cortex_gateway.policy.usage import EventTooLarge, StreamTap

_BROKE = "the connection to the engine broke in the middle of the answer"
_ENDLESS = "the engine sent an event without end"


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
        except (CortexError, EventTooLarge) as error:
            told = error if isinstance(error, CortexError) else CortexError("upstream_failed", _ENDLESS)
            if not out.started:
                raise told from error
            await out.abort(call.last_words(told))
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
        call, tap, out, upstream = self._call, self._tap, self._out, self._upstream
        while True:
            try:
                data = await upstream.read_some()
            except BrokenResponse as broken:
                if tap.done:
                    break
                if broken.executed == "no":
                    raise
                raise CortexError("upstream_failed", _BROKE) from broken
            if not data:
                break
            events = tap.feed(data)
            if events:
                if not call.record.first_content:
                    await self._start()
                if tap.done and upstream.complete:
                    await out.end(events)
                    return
                await out.write(events)
            if tap.error is not None:
                raise engine_error(tap.error, call.dialect)
        await self._finish()

    async def _start(self) -> None:
        """With the first events the head leaves, and with the first content the clock stops."""
        call = self._call
        if not self._out.started:
            call.release()
            await self._out.start(200, [*EVENT_STREAM_HEADERS, *call.headers])
        if self._tap.content:
            call.record.first_content = time.monotonic()

    async def _finish(self) -> None:
        """The engine's connection ended cleanly: the answer did only if the terminal event is there."""
        tap = self._tap
        rest = tap.end()
        if tap.error is not None:
            raise engine_error(tap.error, self._call.dialect)
        if not tap.done:
            raise CortexError("upstream_failed", "the engine's answer ended in the middle")
        if not self._out.started:
            await self._start()
        await self._out.end(rest)

"""A streamed answer: bytes from the engine to the client, up to an end that is clean only if the engine said so."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from cortex_core.errors import CortexError
from cortex_core.http import BrokenResponse, ConnectFailed, EventStream, Response
from cortex_core.neuron_api import Refusal
from cortex_gateway.policy.faults import engine_error, told
from cortex_gateway.policy.usage import EventTooLarge
from cortex_gateway.relay.call import Call
from cortex_gateway.relay.moderation import Moderation
from cortex_gateway.relay.silence import Silence

Judge = Callable[[Call, Response], Awaitable[Refusal]]
"""Reads an answer that is none: a refusal that may be decided again, or a CortexError raised."""


async def pass_on(call: Call, request: Response, judge: Judge, moderation: Moderation) -> Refusal | None:
    """Answer `call` with the stream that `request` brings.

    A refusal: nothing was executed and nothing sent.

    Raises:
        CortexError, BrokenResponse, ConnectFailed: likewise it failed, and nothing has been sent.
    """
    async with EventStream(call.send, call.last_words) as out:
        silence = Silence(call, out)
        try:
            async with request as upstream:
                if upstream.status == 200:
                    await _pass_on(call, upstream, out, silence, moderation)
                    return None
                refusal = await judge(call, upstream)
                if out.started:
                    raise told(refusal)
                return refusal
        except (CortexError, BrokenResponse, ConnectFailed, EventTooLarge) as error:
            if not out.started and not isinstance(error, EventTooLarge):
                raise
            failed = _failed(error)
            if not out.started:
                raise failed from error
            await out.abort(call.last_words(failed))
            return None
        finally:
            await silence.close()
            call.record.usage, call.record.finish_reason = call.rendering.usage(), call.rendering.tap.finish_reason


async def _pass_on(call: Call, upstream: Response, out: EventStream, silence: Silence, moderation: Moderation) -> None:
    tap, passage = call.rendering.tap, _Passage(call, out, silence, moderation)
    while not upstream.ended:
        try:
            await upstream.pour(passage.take)
        except BrokenResponse:
            if not tap.done:
                raise
            break  # behind the terminal event nothing can be missing
        events = passage.left()
        if events:
            await silence.start()
            if tap.done and upstream.complete:
                await out.end(events)
                return
            await out.write(events)
        if tap.error is not None:
            raise engine_error(tap.error, call.dialect)
    rest = tap.end()
    if tap.error is not None:
        raise engine_error(tap.error, call.dialect)
    if not tap.done:
        raise CortexError("upstream_failed", "the engine's answer ended in the middle")
    await silence.start()
    await out.end(rest)


class _Passage:
    """Where events pass as they arrive, within one callback: the handler's task sleeps.

    It is woken for whatever is more than that: the first event, the last one, an error, and a reader that is behind,
    for which nothing more is taken from the engine.
    """

    __slots__ = ("_left", "_moderation", "_out", "_record", "_silence", "_tap", "_too_large")

    def __init__(self, call: Call, out: EventStream, silence: Silence, moderation: Moderation) -> None:
        self._record = call.record
        self._tap = call.rendering.tap
        self._out = out
        self._silence = silence
        self._moderation = moderation
        self._left = b""
        self._too_large: EventTooLarge | None = None

    def take(self, data: bytes) -> bool:
        """False: the handler is to go on."""
        tap, record = self._tap, self._record
        try:
            events = tap.feed(data)
        except EventTooLarge as error:
            self._too_large = error
            return False
        if events:
            now = self._silence.broken()
            if tap.content and not record.first_content:
                record.first_content = now
            if tap.done or tap.error is not None or not self._out.push(events):
                self._left = events
                return False
            self._moderation.passed()
        return tap.error is None

    def left(self) -> bytes:
        """What was taken and has not been written.

        Raises:
            EventTooLarge: nothing more can be taken.
        """
        if self._too_large is not None:
            raise self._too_large
        left, self._left = self._left, b""
        return left


def _failed(error: Exception) -> CortexError:
    if isinstance(error, CortexError):
        return error
    if isinstance(error, EventTooLarge):
        return CortexError("upstream_failed", "the engine sent an event without end")
    return CortexError("upstream_failed", "the connection to the engine broke in the middle of the answer")

"""A streamed answer: bytes from the engine to the client, up to an end that is clean only if the engine said so."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from cortex_core.errors import CortexError
from cortex_core.http import BrokenResponse, ConnectFailed, EventStream, Response
from cortex_core.neuron_api import Refusal
from cortex_gateway.call import Call
from cortex_gateway.policy.faults import engine_error, told
from cortex_gateway.policy.usage import EventTooLarge
from cortex_gateway.rendering import Tap
from cortex_gateway.silence import Silence

Judge = Callable[[Call, Response], Awaitable[Refusal]]
"""Reads an answer that is none: a refusal that may be decided again, or a CortexError raised."""


async def pass_on(call: Call, request: Response, judge: Judge) -> Refusal | None:
    """Answer `call` with the stream that `request` brings.

    A refusal: nothing was executed and nothing sent.

    Raises:
        CortexError, BrokenResponse, ConnectFailed: likewise it failed, and nothing has been sent.
    """
    tap = call.rendering.tap
    async with EventStream(call.send, call.last_words) as out:
        silence = Silence(call, out)
        try:
            async with request as upstream:
                if upstream.status == 200:
                    await _pass_on(call, upstream, tap, out, silence)
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
            call.record.usage, call.record.finish_reason = call.rendering.usage(), tap.finish_reason


async def _pass_on(call: Call, upstream: Response, tap: Tap, out: EventStream, silence: Silence) -> None:
    record, dialect = call.record, call.dialect
    while True:
        try:
            data = await upstream.read_some()
        except BrokenResponse:
            if not tap.done:
                raise
            break  # behind the terminal event nothing can be missing
        if not data:
            break
        events = tap.feed(data)
        if events:
            now = silence.broken()
            if not out.started:
                await silence.start()
            if tap.content and not record.first_content:
                record.first_content = now
            if tap.done and upstream.complete:
                await out.end(events)
                return
            await out.write(events)
        if tap.error is not None:
            raise engine_error(tap.error, dialect)
    rest = tap.end()
    if tap.error is not None:
        raise engine_error(tap.error, dialect)
    if not tap.done:
        raise CortexError("upstream_failed", "the engine's answer ended in the middle")
    await silence.start()
    await out.end(rest)


def _failed(error: Exception) -> CortexError:
    if isinstance(error, CortexError):
        return error
    if isinstance(error, EventTooLarge):
        return CortexError("upstream_failed", "the engine sent an event without end")
    return CortexError("upstream_failed", "the connection to the engine broke in the middle of the answer")

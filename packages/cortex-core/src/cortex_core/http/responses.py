"""Answers as raw ASGI messages: whole ones, and streams that end truthfully.

Starlette's StreamingResponse is not used: blocked in `send` it abandons its generator, whose `finally` then runs
seconds later or never (measured), and it cannot end a stream as broken.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

import msgspec

from cortex_core.http.asgi import Headers, Send

EVENT_STREAM_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)


def respond(
    send: Send, status: int, body: bytes, headers: Headers = (), content_type: bytes = b"application/json"
) -> Awaitable[None]:
    """One whole answer; it leaves in one write. Header names are lower case, as in all of ASGI; a content-type among
    them takes the place of `content_type`."""
    every = [*headers]
    if b"content-type" not in dict(every):
        every.append((b"content-type", content_type))
    return send({"type": "cortex.answer", "status": status, "headers": every, "body": body})


async def respond_json(send: Send, status: int, value: object, headers: Headers = ()) -> None:
    """One whole answer, encoded by msgspec."""
    await respond(send, status, msgspec.json.encode(value), headers)


class EventStream:
    """A streamed answer: server-sent events, or any bytes.

        async with EventStream(send) as stream:
            await stream.start(200)
            await stream.write(b"data: 1\\n\\n")
            await stream.end()

    Leaving the block without `end` aborts: the peer sees a truncated answer, never a clean end. `last_words` is asked
    for the event to send when the server has to cut the stream at the end of a drain.
    """

    __slots__ = ("_ended", "_last", "_last_words", "_push", "_send", "started")

    def __init__(self, send: Send, last_words: Callable[[], bytes] | None = None) -> None:
        self._send = send
        self._last_words = last_words
        self._last = b"\n\n"
        self._ended = False
        self._push: Callable[[bytes], bool] | None = None  # our server's, once the answer has begun
        self.started = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.started and not self._ended and error is None:
            await self.abort()

    async def start(self, status: int, headers: Headers = EVENT_STREAM_HEADERS) -> None:
        """The head; it leaves with the first bytes written."""
        self.started = True
        message = {"type": "http.response.start", "status": status, "headers": headers, "cortex.cut": self._cut}
        await self._send(message)
        self._push = message.get("cortex.push")  # type: ignore[assignment]

    def push(self, data: bytes) -> bool:
        """Writes bytes in one piece at once. False: that cannot be done without a wait, and nothing was written."""
        if self._push is None or not self._push(data):
            return False
        self._last = data
        return True

    def write(self, data: bytes) -> Awaitable[None]:
        """Writes bytes in one piece; waits while the reader is behind."""
        if data:
            self._last = data
        return self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        """The clean end, with the last bytes if there are any."""
        self._ended = True
        await self._send({"type": "http.response.body", "body": data, "more_body": False})

    async def abort(self, last: bytes = b"") -> None:
        """Ends the stream as broken, after `last` (an in-band error event): the connection closes without the end
        that would make the answer whole."""
        self._ended = True
        await self._send({"type": "cortex.abort", "body": self._separated(last)})

    def _cut(self) -> bytes:
        return self._separated(b"" if self._last_words is None else self._last_words())

    def _separated(self, event: bytes) -> bytes:
        """An event that starts on a line of its own, also behind one that was cut in the middle."""
        return event if not event or self._last.endswith((b"\n\n", b"\r\n\r\n")) else b"\n\n" + event

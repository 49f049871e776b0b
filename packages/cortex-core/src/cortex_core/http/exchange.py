"""One request and its answer: hypercorn's `HTTPStream` for the ASGI semantics, one task, one bounded receive queue.

`HTTPStream` builds the scope, keeps the state of the answer and refuses what ASGI forbids; it never suspends when the
queue behind it does not, so it is stepped from the protocol's callbacks without a task of its own. Its internals are
held by `tests/wire/test_hypercorn_contract.py`, hence the pin `hypercorn==0.18.*`.
"""

from __future__ import annotations

import asyncio
import http
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from hypercorn.config import Config
from hypercorn.protocol.events import Body, EndBody, Event, Request, Response, StreamClosed
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.typing import ConnectionState
from hypercorn.utils import suppress_body

from cortex_core.http.asgi import Headers, Message, Receive, Scope, Send
from cortex_core.http.head import Head, Refusal
from cortex_core.http.request import Disconnected

if TYPE_CHECKING:
    from cortex_core.http.connection import Connection

_STREAM_ID = 1  # HTTP/1.1 has one stream at a time
_STATUS_LINES = {status.value: b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode()) for status in http.HTTPStatus}
_END_OF_CHUNKS = b"0\r\n\r\n"
_DISCONNECT: Message = {"type": "http.disconnect"}

_CONFIG = Config()
_CONFIG.accesslog = None
_CONFIG.errorlog = None


class _Stream(HTTPStream):
    """`HTTPStream` with one message more: `cortex.abort` ends the answer without a clean end."""

    exchange: Exchange

    async def app_send(self, message: Any) -> None:
        if message is not None and message["type"] == "cortex.abort":
            self.exchange.abort(message.get("body", b""))
            return
        await super().app_send(message)


class Exchange:
    """Owned by its connection. The app's task is cancelled when the client leaves before the answer is complete."""

    __slots__ = (
        "_buffered",
        "_chunked",
        "_connection",
        "_expects_continue",
        "_flushing",
        "_head",
        "_out",
        "_queue",
        "_queued",
        "_remaining",
        "_stream",
        "_waiter",
        "body_done",
        "complete",
        "request",
        "started",
        "task",
    )

    def __init__(self, connection: Connection, head: Head) -> None:
        self._connection = connection
        self.request = head
        self.task: asyncio.Task[None] | None = None
        self.started = False  # the head of the answer is out, or about to leave with the first body bytes
        self.complete = False  # nothing more will be written
        self.body_done = False  # the whole request has been read
        self._queue: list[Message] = []
        self._queued = 0  # body bytes in the queue
        self._waiter: asyncio.Future[None] | None = None
        self._expects_continue = head.expects_continue
        self._chunked = False
        self._remaining: int | None = None  # of the declared length of the answer
        self._head: bytes | None = None  # waits for the first body bytes, so that they leave together
        self._out: list[bytes] = []
        self._buffered = 0
        self._flushing = False
        self._stream = _Stream(
            connection.server.app,  # type: ignore[arg-type]  # called by spawn_app below, with ASGI's three arguments
            _CONFIG,
            None,  # type: ignore[arg-type]  # no worker context: HTTPStream keeps it and never looks
            self,  # type: ignore[arg-type]  # the task group: spawn_app is all that is asked of it
            connection.is_tls,
            connection.client,
            connection.local,
            self._on_event,
            _STREAM_ID,
        )
        self._stream.exchange = self

    def start(self) -> None:
        head = self.request
        _step(
            self._stream.handle(
                Request(
                    stream_id=_STREAM_ID,
                    headers=head.headers,
                    http_version=head.version,
                    method=head.method.decode(),
                    raw_path=head.target,
                    state=ConnectionState({}),
                )
            )
        )

    @property
    def scope(self) -> Scope:
        return self._stream.scope  # type: ignore[return-value]  # a TypedDict with ASGI's keys

    # --- towards the app

    async def spawn_app(self, app: Any, _: Config, scope: Any, send: Any) -> Callable[[Any], Any]:
        """What HTTPStream asks of a task group. The task belongs to the server, which waits for it when it closes."""
        self.task = self._connection.server.spawn(self._run(app, scope, self.receive, send))
        return self._put

    async def _run(self, app: Any, scope: Scope, receive: Receive, send: Send) -> None:
        server = self._connection.server
        try:
            await app(scope, receive, send)
        except asyncio.CancelledError:
            self.abort()
            raise
        except Refusal as refusal:
            self.refuse(refusal.status, refusal.message)
        except Disconnected:
            self.abort()
        except Exception as error:  # noqa: BLE001  # the request boundary: a bug in a handler ends one request
            server.on_error(scope, error)
            self.refuse(500, "internal error")
        else:
            if not self.complete:
                server.on_error(scope, RuntimeError("the app returned before its answer was complete"))
                self.refuse(500, "internal error")

    async def receive(self) -> Message:
        if not self._queue:
            if self._expects_continue and not self.started:
                self._expects_continue = False
                self._connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                self._connection.body_awaited()
            self._waiter = self._connection.loop.create_future()
            await self._waiter
        if self._queue[0] is _DISCONNECT:
            return _DISCONNECT
        message = self._queue.pop(0)
        self._queued -= len(message["body"])
        if not self._queued:
            self._connection.resume_body()
        return message

    async def _put(self, message: Message) -> None:
        self._queue.append(_DISCONNECT if message["type"] == "http.disconnect" else message)
        self._wake()

    def feed_body(self, data: bytes, done: bool) -> int:
        """Hands body bytes to the app; gives how many it has not taken yet."""
        self.body_done = done
        self._expects_continue = False  # RFC 9110 10.1.1: no 100 once the body comes
        self._queue.append({"type": "http.request", "body": data, "more_body": not done})
        self._queued += len(data)
        self._wake()
        return self._queued

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # --- towards the client

    async def _on_event(self, event: Event) -> None:
        if self.complete:
            await asyncio.sleep(0)  # where a cancelled app that never waits for anything else is stopped
        elif isinstance(event, Body):
            if self._connection.can_write is not None:
                await self._connection.can_write
            if self._write_body(event.data):
                await asyncio.sleep(0)  # bulk that its reader takes at once leaves the others their turn
        elif isinstance(event, Response):
            self._begin(event.status_code, event.headers)
        elif isinstance(event, EndBody):
            self._end()
        elif isinstance(event, StreamClosed):
            self.abort()  # the app went away from an answer that it had begun

    def _begin(self, status: int, headers: Headers) -> None:
        connection = self._connection
        head = [status_line(status)]
        length: int | None = None
        for name, value in headers:
            lowered = name.lower()
            if lowered == b"content-length":
                length = int(value)
            elif lowered in (b"transfer-encoding", b"connection"):
                continue  # the connection's business, not the app's
            head.append(b"%b: %b\r\n" % (name, value))
        bodyless = suppress_body(self._stream.scope["method"], status)
        self._remaining = 0 if bodyless else length
        self._chunked = length is None and not bodyless and self.request.version == "1.1"
        if self._chunked:
            head.append(b"transfer-encoding: chunked\r\n")
        elif length is None and not bodyless:
            connection.keep_alive = False  # HTTP/1.0 knows no chunks: the close ends the answer
        if connection.closes_after(self):
            head.append(b"connection: close\r\n")
        head.append(connection.server.date)
        joined = b"".join(head)
        if joined.count(b"\n") != len(head) or joined.count(b"\r") != len(head) or b"\0" in joined:
            raise ValueError("a response header holds a line break or NUL")
        self._head = joined + b"\r\n"
        self.started = True

    def _write_body(self, data: bytes) -> bool:
        """The first bytes leave at once, so that they wait for nobody's bulk; later ones are joined per loop turn.

        True when it was so much that it left before the turn's end.
        """
        if self.complete:  # the client left while this waited
            return True
        if self._remaining is not None:
            self._remaining -= len(data)
            if self._remaining < 0:
                raise ValueError("the answer is longer than its content-length")
        if self._head is not None:
            self._connection.write(self._head + self._framed([data], len(data)))
            self._head = None
            return False
        self._out.append(data)
        self._buffered += len(data)
        if self._buffered >= self._connection.server.limits.write_bytes:
            self._flush()
            return True
        if not self._flushing:
            self._flushing = True
            self._connection.loop.call_soon(self._flush_turn)
        return False

    def _flush_turn(self) -> None:
        self._flushing = False
        self._flush()

    def _flush(self) -> None:
        if self._out:
            data = self._framed(self._out, self._buffered)
            self._out = []
            self._buffered = 0
            self._connection.write(data)

    def _framed(self, pieces: list[bytes], size: int) -> bytes:
        if not self._chunked:
            return b"".join(pieces)
        return b"".join([b"%x\r\n" % size, *pieces, b"\r\n"]) if size else b""

    def _end(self) -> None:
        if self._remaining:
            self.abort()
            raise ValueError("the answer is shorter than its content-length")
        last = _END_OF_CHUNKS if self._chunked else b""
        if self._head is not None:
            last = self._head + last
        elif self._out:
            last = self._framed(self._out, self._buffered) + last
        self._head = None
        self._out = []
        self.complete = True
        if last:
            self._connection.write(last)
        self._connection.exchange_done()

    # --- ends that are not the app's

    def refuse(self, status: int, message: str) -> None:
        """Answers an error in the caller's dialect, if nothing is out yet; else ends the answer as broken."""
        if self.complete:
            return
        if self._head is not None or not self.started:
            self.complete = True
            self._connection.refuse(status, message, self.scope)
        else:
            self.abort()

    def break_off(self, status: int, message: str) -> None:
        """The same for a request whose handler still runs, and would wait for ever for the rest of it."""
        self.refuse(status, message)
        self._cancel()

    def cut(self) -> None:
        """Ends the request because the server closes: with the app's own last words where it left some."""
        if self.complete:
            return
        if self.started and self._head is None:
            last: Callable[[], bytes] | None = self._stream.response.get("cortex.cut")  # type: ignore[assignment]
            self.abort(b"" if last is None else last())
        else:
            self.refuse(503, "the server is shutting down")
        self._cancel()

    def abort(self, last: bytes = b"") -> None:
        """Closes the connection with `last` as the last words and without the end that would make the answer whole."""
        if self.complete:
            return
        if last and self._remaining is None:
            self._out.append(last)
            self._buffered += len(last)
        data = (self._head or b"") + (self._framed(self._out, self._buffered) if self._out else b"")
        self.complete = True
        if data:
            self._connection.write(data)
        self._connection.close()

    def disconnected(self) -> None:
        """The client has left. An answer already complete is the app's to finish with; any other is cancelled."""
        if not self.complete:
            self.complete = True
            self._cancel()
        _step(self._stream.handle(StreamClosed(stream_id=_STREAM_ID)))

    def _cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()


def status_line(status: int) -> bytes:
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status


def _step(coroutine: Coroutine[Any, Any, None]) -> None:
    """Runs a coroutine that never suspends."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise RuntimeError("HTTPStream.handle suspended: hypercorn's internals have moved")

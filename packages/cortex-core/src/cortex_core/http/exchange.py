"""One request and its answer: hypercorn's `HTTPStream` for the ASGI semantics, one task, one bounded receive queue.

`HTTPStream` builds the scope, keeps the state of the answer and refuses what ASGI forbids; it never suspends when the
queue behind it does not, so it is stepped from the protocol's callbacks without a task of its own. Its internals are
held by `tests/wire/test_hypercorn_contract.py`, hence the pin `hypercorn==0.18.*`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from hypercorn.config import Config
from hypercorn.protocol.events import Event, Request, StreamClosed
from hypercorn.protocol.http_stream import ASGIHTTPState, HTTPStream
from hypercorn.typing import ConnectionState

from cortex_core.http.asgi import Headers, Message, Receive, Scope, Send
from cortex_core.http.framing import AnswerFraming
from cortex_core.http.head import Head, Refusal
from cortex_core.http.request import Disconnected

if TYPE_CHECKING:
    from cortex_core.http.connection import Connection

_STREAM_ID = 1  # HTTP/1.1 has one stream at a time
_DISCONNECT: Message = {"type": "http.disconnect"}

_REFERS_BACK = ("app_put", "exchange", "response", "send", "task_group")  # of HTTPStream's attributes

_CONFIG = Config()
_CONFIG.accesslog = None
_CONFIG.errorlog = None


class _Stream(HTTPStream):
    """`HTTPStream` whose answer goes straight to the exchange, and with one message more: `cortex.abort`."""

    exchange: Exchange

    def let_go(self) -> None:
        """Drops what refers back to the exchange, so that both die by counting and the collector has nothing to do."""
        self.closed = True  # an app that has returned need not hear that its client left
        for name in _REFERS_BACK:
            self.__dict__.pop(name, None)

    async def app_send(self, message: Any) -> None:
        kind = message["type"]
        if kind == "http.response.body" and self.state is ASGIHTTPState.RESPONSE:
            last = not message.get("more_body", False)
            if last:
                self.state = ASGIHTTPState.CLOSED
            await self.exchange.send_body(message.get("body", b""), last)
        elif kind == "http.response.start" and self.state is ASGIHTTPState.REQUEST:
            self.response = message
            self.exchange.begin_answer(message["status"], message["headers"])
            self.state = ASGIHTTPState.RESPONSE
        elif kind == "cortex.abort":
            self.exchange.abort(message.get("body", b""))
        else:
            await super().app_send(message)


class Exchange:
    """Owned by its connection. The app's task is cancelled when the client leaves before the answer is complete."""

    __slots__ = (
        "_burst",
        "_connection",
        "_expects_continue",
        "_framing",
        "_queue",
        "_queued",
        "_stream",
        "_waiter",
        "body_done",
        "complete",
        "request",
        "task",
    )

    def __init__(self, connection: Connection, head: Head) -> None:
        self._connection = connection
        self.request = head
        self.task: asyncio.Task[None] | None = None
        self.complete = False  # nothing more will be written
        self.body_done = False  # the whole request has been read
        self._queue: list[Message] = []
        self._queued = 0  # body bytes in the queue
        self._waiter: asyncio.Future[None] | None = None
        self._expects_continue = head.expects_continue
        self._framing: AnswerFraming | None = None  # once the app has begun its answer
        self._burst = 0  # bytes written since others had their turn
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
            if not self.complete:
                server.on_error(scope, RuntimeError("the app returned before its answer was complete"))
                self.refuse(500, "internal error")
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
        finally:
            assert self.task is not None
            server.ended(self.task)
            self._stream.let_go()

    async def receive(self) -> Message:
        if not self._queue:
            if self._expects_continue and self._framing is None:
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

    def begin_answer(self, status: int, headers: Headers) -> None:
        """The head, which waits for the first bytes of the body."""
        if self.complete:
            return
        connection = self._connection
        self._framing = AnswerFraming(
            self._stream.scope["method"],
            self.request.version,
            status,
            headers,
            closes=connection.closes_after(self),
            date=connection.server.date,
        )
        if self._framing.closes:
            connection.keep_alive = False

    async def _on_event(self, _: Event) -> None:
        """Where HTTPStream would pass the answer on, had `_Stream` not taken it."""

    async def send_body(self, data: bytes, last: bool) -> None:
        """Writes a piece of the answer at once: pieces that came together have been joined by whoever read them."""
        connection = self._connection
        if connection.can_write is not None:
            await connection.can_write
        if self.complete:
            await asyncio.sleep(0)  # where a cancelled app that never waits for anything else is stopped
            return
        assert self._framing is not None
        piece = self._framing.piece(data, last=last)
        if last:
            self.complete = True
        if piece:
            connection.write(piece)
        if last:
            connection.exchange_done()
            return
        self._burst += len(data)
        if self._burst >= connection.server.limits.write_bytes:
            self._burst = 0
            await asyncio.sleep(0)  # bulk that its reader takes at once leaves the others their turn

    # --- ends that are not the app's

    def refuse(self, status: int, message: str) -> None:
        """Answers an error in the caller's dialect, if nothing is out yet; else ends the answer as broken."""
        if self.complete:
            return
        if self._framing is None or self._framing.head_waits:
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
        if self._framing is not None and not self._framing.head_waits:
            last: Callable[[], bytes] | None = self._stream.response.get("cortex.cut")  # type: ignore[assignment]
            self.abort(b"" if last is None else last())
        else:
            self.refuse(503, "the server is shutting down")
        self._cancel()

    def abort(self, last: bytes = b"") -> None:
        """Closes the connection with `last` as the last words and without the end that would make the answer whole."""
        if self.complete:
            return
        self.complete = True
        if self._framing is not None:
            self._connection.write(self._framing.torn(last))
        self._connection.close()

    def disconnected(self) -> None:
        """The client has left. An answer already complete is the app's to finish with; any other is cancelled."""
        if not self.complete:
            self.complete = True
            self._cancel()
        _step(self._stream.handle(StreamClosed(stream_id=_STREAM_ID)))

    def _cancel(self) -> None:
        if self.task is not None:
            self._connection.server.cancel(self.task)


def _step(coroutine: Coroutine[Any, Any, None]) -> None:
    """Runs a coroutine that never suspends."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise RuntimeError("HTTPStream.handle suspended: hypercorn's internals have moved")

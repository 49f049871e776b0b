"""One request and its answer: hypercorn's `HTTPStream` for the ASGI semantics, one task, one bounded receive queue.

`HTTPStream` keeps the state of the answer and refuses what ASGI forbids. Its way in, by an event and a coroutine for
each thing that happens, cost 13 us a request of some 75: so the scope is built here, the same one. Both are held by
`tests/wire/test_hypercorn_contract.py`, hence the pin `hypercorn==0.18.*`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hypercorn.protocol.http_stream import ASGIHTTPState, HTTPStream

from cortex_core.http.asgi import ASGIApp, Headers, Message, Scope
from cortex_core.http.framing import AnswerFraming, whole_answer
from cortex_core.http.head import Head, Refusal
from cortex_core.http.request import Disconnected

if TYPE_CHECKING:
    from cortex_core.http.connection import Connection

_REQUEST, _RESPONSE, _CLOSED = ASGIHTTPState.REQUEST, ASGIHTTPState.RESPONSE, ASGIHTTPState.CLOSED
_DISCONNECT: Message = {"type": "http.disconnect"}


class Exchange(HTTPStream):
    """Owned by its connection. The app's task is cancelled when the client leaves before the answer is complete.

    With two messages more than ASGI's: `cortex.answer`, which is a whole one, and `cortex.abort`.
    """

    def __init__(self, connection: Connection, head: Head) -> None:
        self._connection = connection
        self.request = head
        self.task: asyncio.Task[None] | None = None
        self.complete = False  # nothing more will be written
        self.body_done = False  # the whole request has been read
        self.state = _REQUEST  # of the answer
        self._whole: list[bytes] = []  # the body that came with the head, until somebody takes it
        self._queue: list[Message] = []
        self._queued = 0  # body bytes in the queue
        self._waiter: asyncio.Future[None] | None = None
        self._expects_continue = head.expects_continue
        self._framing: AnswerFraming | None = None  # once the app has begun its answer
        self._last_words: Callable[[], bytes] | None = None  # of an app that has some
        self._burst = 0  # bytes written since others had their turn

    def start(self, body: bytes | None = None) -> None:
        """Begins the app's task, with the whole body where it has come with the head."""
        connection = self._connection
        scope: Any = {
            **self.request.scope,
            "scheme": "https" if connection.is_tls else "http",
            "client": connection.client,
            "server": connection.local,
            "state": {},
            "extensions": {},
            "cortex.body": self._whole,
        }
        if body is not None:
            self._whole.append(body)
            self.body_done = True
            self._expects_continue = False  # RFC 9110 10.1.1: no 100 once the body comes
        self.scope = scope
        server = connection.server
        self.task = server.spawn(self._run(server.app, scope))

    # --- towards the app

    async def _run(self, app: ASGIApp, scope: Scope) -> None:
        """The task belongs to the server, which waits for it when it closes."""
        server = self._connection.server
        try:
            await app(scope, self.receive, self.app_send)
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
            self._last_words = None  # it refers back here: both die by counting, and the collector has nothing to do

    async def receive(self) -> Message:
        if self._whole:
            return {"type": "http.request", "body": self._whole.pop(), "more_body": False}
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

    def feed_body(self, data: bytes, done: bool) -> int:
        """Hands body bytes to the app; gives how many it has not taken yet."""
        self.body_done = done
        self._expects_continue = False
        self._queue.append({"type": "http.request", "body": data, "more_body": not done})
        self._queued += len(data)
        self._wake()
        return self._queued

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # --- towards the client

    async def app_send(self, message: Any) -> None:
        """ASGI's `send`. What is left for hypercorn here HTTP/1.1 does not have: it is refused."""
        kind = message["type"]
        if kind == "http.response.body" and self.state is _RESPONSE:
            last = not message.get("more_body", False)
            if last:
                self.state = _CLOSED
            if self._connection.can_write is not None:
                await self._connection.can_write
            if self._write(message.get("body", b""), last):
                await asyncio.sleep(0)
        elif kind == "cortex.answer" and self.state is _REQUEST:
            self.state = _CLOSED
            if self._connection.can_write is not None:
                await self._connection.can_write
            self._answer(message["status"], message["headers"], message["body"])
        elif kind == "http.response.start" and self.state is _REQUEST:
            self._last_words = message.get("cortex.cut")
            message["cortex.push"] = self.push
            self._begin_answer(message["status"], message["headers"])
            self.state = _RESPONSE
        elif kind == "cortex.abort":
            self.abort(message.get("body", b""))
        else:
            await super().app_send(message)

    def _answer(self, status: int, headers: Headers, body: bytes) -> None:
        if self.complete:
            return
        connection = self._connection
        closes, date = connection.closes_after(self), connection.server.date
        answer = whole_answer(status, headers, body, method=self.scope["method"], closes=closes, date=date)
        self.complete = True
        connection.write(answer)
        connection.exchange_done()

    def _begin_answer(self, status: int, headers: Headers) -> None:
        """The head, which waits for the first bytes of the body."""
        if self.complete:
            return
        connection = self._connection
        self._framing = AnswerFraming(
            self.scope["method"],
            self.request.version,
            status,
            headers,
            closes=connection.closes_after(self),
            date=connection.server.date,
        )
        if self._framing.closes:
            connection.keep_alive = False

    def push(self, data: bytes) -> bool:
        """Writes a piece without a wait. False: the reader is behind, or gone, and nothing was written."""
        connection, framing = self._connection, self._framing
        if self.complete or connection.can_write is not None or framing is None:
            return False
        connection.write(framing.piece(data, last=False))
        return True

    def _write(self, data: bytes, last: bool) -> bool:
        """Writes a piece of the answer at once: pieces that came together have been joined by whoever read them.
        True: others should have their turn now."""
        if self.complete:
            return True  # where a cancelled app that never waits for anything else is stopped
        connection = self._connection
        assert self._framing is not None
        piece = self._framing.piece(data, last=last)
        if last:
            self.complete = True
        if piece:
            connection.write(piece)
        if last:
            connection.exchange_done()
            return False
        self._burst += len(data)
        if self._burst < connection.server.limits.write_bytes:
            return False
        self._burst = 0  # this was bulk, which its reader takes at once
        return True

    # --- ends that are not the app's

    def refuse(self, status: int, message: str) -> None:
        """Answers an error in the caller's dialect, if nothing is out yet; else ends the answer as broken."""
        if self.complete:
            return
        if self._framing is None or self._framing.head_waits:
            self.complete = True
            self._connection.refuse(status, message, self.scope)  # type: ignore[arg-type]  # a TypedDict
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
            self.abort(b"" if self._last_words is None else self._last_words())
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
        self._queue.append(_DISCONNECT)
        self._wake()

    def _cancel(self) -> None:
        if self.task is not None:
            self._connection.server.cancel(self.task)

"""The server: accepts, bounds, keeps time for its connections, drains, and closes. HTTP/1.1 only.

    async with Server(app, listeners=[bind("127.0.0.1:31313")]) as server:
        ...
        await server.drain(timeout_s=120)

It owns every connection and every handler's task: when the block is left, none is alive.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import time
from collections.abc import Callable, Coroutine, Sequence
from email.utils import formatdate
from types import TracebackType
from typing import Any, Self

import msgspec

from cortex_core.http.acceptor import Acceptor
from cortex_core.http.asgi import ASGIApp, Headers, Scope
from cortex_core.http.connection import Connection, Phase
from cortex_core.http.hangup import HangupWatch, readable
from cortex_core.http.head import Heads
from cortex_core.http.limits import Limits

log = logging.getLogger(__name__)

Errors = Callable[[int, str, Scope | None], tuple[Headers, bytes]]
OnError = Callable[[Scope, Exception], None]

_LAST_WORDS_S = 0.5  # how long the last bytes of cut answers may take to leave
_TICK_S = 0.5


def openai_errors(status: int, message: str, _: Scope | None) -> tuple[Headers, bytes]:
    """The errors that the server answers by itself, in OpenAI's envelope."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    error = {"message": message, "type": kind, "param": None, "code": None}
    return [(b"content-type", b"application/json")], msgspec.json.encode({"error": error})


def log_error(scope: Scope, error: Exception) -> None:
    log.error("unhandled %s in %s %s", type(error).__name__, scope["method"], scope["path"], exc_info=error)


class Server:
    """Serves `app` on `listeners`, which it takes over and closes.

    `errors` renders what the server answers by itself (400, 408, 413, 414, 417, 431, 500, 501, 503) as headers and
    body; its scope is None where the request could not be read. `on_error` is told of a handler's bug.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        listeners: Sequence[socket.socket],
        limits: Limits | None = None,
        errors: Errors = openai_errors,
        on_error: OnError = log_error,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self.app = app
        self.limits = limits or Limits()
        self.heads = Heads(self.limits)
        self.errors = errors
        self.on_error = on_error
        self.draining = False
        self.date = b""  # the Date header's line, renewed with each tick
        self.loop: asyncio.AbstractEventLoop
        self.hangups: HangupWatch
        self._acceptor = Acceptor(self, list(listeners), ssl_context)
        self._connections: set[Connection] = set()
        self._idle: dict[Connection, None] = {}  # oldest first
        self._tasks: set[asyncio.Task[None]] = set()  # handlers
        self._ticker: asyncio.TimerHandle | None = None
        self._awaited: tuple[Callable[[], bool], asyncio.Future[None]] | None = None  # what a drain waits for
        every = self.limits
        shortest = min(every.header_timeout_s, every.body_grace_s, every.body_timeout_s, every.write_stall_s)
        self._tick_s = min(_TICK_S, shortest / 4, every.keep_alive_s / 4, every.linger_s / 4)

    # --- what others may ask

    @property
    def addresses(self) -> list[str]:
        return self._acceptor.addresses

    @property
    def in_flight(self) -> int:
        """Requests whose handler runs."""
        return len(self._tasks)

    @property
    def connections(self) -> int:
        return len(self._connections) + len(self._acceptor.arriving)

    # --- life

    async def __aenter__(self) -> Self:
        self.loop = asyncio.get_running_loop()
        self.hangups = HangupWatch(self.loop)
        self._tick()
        self._acceptor.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def drain(self, timeout_s: float, *, idle_grace_s: float = 0.25) -> None:
        """Stops accepting and lets requests finish; at the deadline cuts those that have not.

        Answers that begin now say `connection: close`. Idle connections may bring one more request for a moment (it may
        be on its way, and closing would lose it), then they close. A cut answer that has begun ends with the last words
        its `EventStream` was given, never with a clean end; one that has not is a 503.
        """
        deadline = self.loop.time() + timeout_s
        self._acceptor.stop()
        self.draining = True
        await self._until(lambda: not self._idle and not self._acceptor.arriving, min(idle_grace_s, timeout_s))
        for connection in list(self._idle):
            if connection.phase is Phase.IDLE and not readable(connection.socket_fd):
                connection.finish()
        await self._until(lambda: not self._tasks and not self._idle, deadline - self.loop.time())
        await self._close()

    async def _close(self) -> None:
        self._acceptor.stop()
        for connection in list(self._connections):
            connection.cut()
        for task in list(self._tasks):
            self.cancel(task)
        self._acceptor.cancel()
        await self._until(lambda: not (self._tasks or self.connections), _LAST_WORDS_S)
        for connection in list(self._connections):
            connection.abort()
        await self._until(lambda: not self._connections, _LAST_WORDS_S)
        if self._tasks:
            log.error("%d handlers did not end when cancelled", len(self._tasks))
        if self._ticker is not None:
            self._ticker.cancel()
        self.hangups.close()

    async def _until(self, settled: Callable[[], bool], timeout_s: float) -> None:
        """Until `settled`, which is asked again whenever something ends, or the time is up."""
        if settled():
            return
        future = self.loop.create_future()
        self._awaited = (settled, future)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await future
        self._awaited = None

    def something_ended(self) -> None:
        if self._awaited is not None and not self._awaited[1].done() and self._awaited[0]():
            self._awaited[1].set_result(None)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A handler's task; it ends before the server does. It has a name, or each would have one made."""
        task = asyncio.Task(work, loop=self.loop, name="request")
        self._tasks.add(task)
        return task

    def ended(self, task: asyncio.Task[None]) -> None:
        """A handler is about to return."""
        self._tasks.discard(task)
        self.something_ended()
        self._acceptor.room_again()

    def cancel(self, task: asyncio.Task[None]) -> None:
        task.add_done_callback(self.ended)  # one that has not begun yet will never tell
        task.cancel()

    # --- what connections tell

    def opened(self, connection: Connection) -> None:
        self._connections.add(connection)
        self._acceptor.opened(connection)

    def idle(self, connection: Connection) -> None:
        self._idle[connection] = None

    def busy(self, connection: Connection) -> None:
        self._idle.pop(connection, None)
        self.something_ended()

    def closed(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._idle.pop(connection, None)
        self.something_ended()
        self._acceptor.room_again()

    @property
    def has_idle(self) -> bool:
        return bool(self._idle)

    def shed(self) -> None:
        """Drops the oldest idle connection."""
        next(iter(self._idle)).abort()

    # --- time

    def _tick(self) -> None:
        """One clock for all connections: a timer for each would cost more than looking at ten thousand of them."""
        now = self.loop.time()
        self.date = b"date: %b\r\n" % formatdate(time.time(), usegmt=True).encode()
        for connection in list(self._connections):
            connection.check(now)
        self._ticker = self.loop.call_later(self._tick_s, self._tick)

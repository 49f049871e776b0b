"""One client's connection: bytes to requests, one at a time, and every state with a deadline.

The read side is never paused while an answer is in the making, or a client that leaves would go unnoticed (what stock
hypercorn does behind one pipelined byte). What comes early is kept, up to a bound; only a body that the app does not
take pauses reading, and then the kernel is asked to tell of a hang-up by other means (`hangup.py`).
"""

from __future__ import annotations

import asyncio
import enum
import socket
from typing import TYPE_CHECKING, Any

from cortex_core.http.asgi import Scope
from cortex_core.http.body import ChunkedBody, LengthBody
from cortex_core.http.exchange import Exchange
from cortex_core.http.framing import whole_answer
from cortex_core.http.hangup import finish
from cortex_core.http.head import Head, HeadReader, Refusal
from cortex_core.http.pace import BodyPace, ReaderPace

if TYPE_CHECKING:
    from cortex_core.http.server import Server


class Phase(enum.Enum):
    IDLE = enum.auto()  # between requests: the first to go when room is needed
    HEAD = enum.auto()  # a head has begun
    BODY = enum.auto()  # the app runs, its request is still coming
    ANSWER = enum.auto()  # the request is complete, its answer is not
    CLOSING = enum.auto()  # nothing more is read as a request; what was written may still leave


_IDLE, _HEAD, _BODY, _ANSWER, _CLOSING = Phase  # before Python 3.12 a member costs more by its class than a call


class Connection(asyncio.Protocol):
    """Lives in `server.connections` from its first moment to `connection_lost`."""

    __slots__ = (
        "_body",
        "_exchange",
        "_pace",
        "_pending",
        "_reader",
        "_reader_pace",
        "can_write",
        "client",
        "deadline",
        "is_tls",
        "keep_alive",
        "local",
        "loop",
        "phase",
        "server",
        "socket_fd",
        "transport",
    )

    def __init__(self, server: Server) -> None:
        self.server = server
        self.loop = server.loop
        self.transport: asyncio.Transport
        self.phase = _IDLE
        self.deadline = 0.0  # of the present phase, loop time
        self.can_write: asyncio.Future[None] | None = None  # set while the reader is behind
        self.keep_alive = True
        self.is_tls = False
        self.client: tuple[str, int] | None = None
        self.local: tuple[str, int] | None = None
        self._reader: HeadReader | None = None
        self._body: LengthBody | ChunkedBody | None = None
        self._pace: BodyPace | None = None
        self._reader_pace: ReaderPace | None = None  # with can_write
        self._exchange: Exchange | None = None
        self._pending = b""  # bytes behind the present request
        self.socket_fd = -1

    # --- asyncio.Protocol

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        limits = self.server.limits
        transport.set_write_buffer_limits(high=limits.write_bytes)
        sock: socket.socket = transport.get_extra_info("socket")
        self.socket_fd = sock.fileno()
        if sock.family != socket.AF_UNIX:
            self.client = transport.get_extra_info("peername", ())[:2] or None
            self.local = transport.get_extra_info("sockname", ())[:2] or None
        self.is_tls = transport.get_extra_info("ssl_object") is not None
        self.server.opened(self)
        self._enter_idle()

    def data_received(self, data: bytes) -> None:
        if self.phase is _ANSWER:
            self._keep(self._pending + data)
        elif self.phase is not _CLOSING:
            self._read(data)

    def eof_received(self) -> bool:
        """Half-closed counts as gone: nobody who waits for an answer closes his side."""
        self.abort()
        return False

    def pause_writing(self) -> None:
        self.can_write = self.loop.create_future()
        self._reader_pace = ReaderPace(self.loop.time(), self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        if self.can_write is not None and not self.can_write.done():
            self.can_write.set_result(None)
        self.can_write = self._reader_pace = None

    def connection_lost(self, _: Exception | None) -> None:
        self.server.hangups.unwatch(self.socket_fd)
        self.phase = _CLOSING
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.disconnected()
        self.server.closed(self)

    # --- requests

    def _read(self, data: bytes) -> None:
        """Reads as far as one request at a time goes; a refusal is answered and closes."""
        try:
            while data:
                if self.phase is _BODY:
                    data = self._read_body(data)
                elif self.phase is _IDLE or self.phase is _HEAD:
                    data = self._read_head(data)
                else:
                    break
        except Refusal as refusal:
            self._refuse(refusal)
            return
        if data and self.phase is _ANSWER:
            self._keep(data)

    def _keep(self, pipelined: bytes) -> None:
        """Keeps what came behind the present request; more of it than the bound is no client of ours."""
        self._pending = pipelined
        if len(pipelined) > self.server.limits.receive_bytes:
            self.abort()

    def _read_head(self, data: bytes) -> bytes:
        if self._reader is None:
            self.phase = _HEAD
            whole = self.server.heads.whole(data)
            if whole is not None:
                head, end = whole
                return self._begin(head, data[end:])
            self._reader = HeadReader(self.server.limits)
            self.deadline = self.loop.time() + self.server.limits.header_timeout_s
        found = self._reader.feed(data)
        if found is None:
            return b""
        head, end = found
        self._reader = None
        return self._begin(head, data[end:])

    def _begin(self, head: Head, data: bytes) -> bytes:
        """Starts the request of `head`, behind which `data` has come, and gives what it leaves of that."""
        limits = self.server.limits
        if head.length is not None and head.length > limits.body_bytes:
            raise _Refused(413, f"the request's body is over {limits.body_bytes} bytes", head)
        self.server.busy(self)
        self.keep_alive = head.keep_alive
        exchange = self._exchange = Exchange(self, head)
        if head.length is not None and head.length <= len(data):  # all of it is here, as nearly always
            self.phase = _ANSWER
            exchange.start(data[: head.length])
            return data[head.length :]
        self.phase = _BODY
        self._body = ChunkedBody() if head.length is None else LengthBody(head.length)
        self._pace = BodyPace()
        if not head.expects_continue:
            self.body_awaited()
        exchange.start()
        return data

    def _read_body(self, data: bytes) -> bytes:
        assert self._body is not None
        assert self._exchange is not None
        assert self._pace is not None
        self.body_awaited()
        piece, rest = self._body.feed(data)
        self._pace.size += len(piece)
        if self._pace.size > self.server.limits.body_bytes:
            raise Refusal(413, f"the request's body is over {self.server.limits.body_bytes} bytes")
        done = self._body.done
        if done:
            self.resume_body()  # TLS may deliver what it had read before the pause
            self._body = self._pace = None
            self.phase = _ANSWER
        if (piece or done) and self._exchange.feed_body(piece, done) > self.server.limits.receive_bytes and not done:
            self._pause_body()
        return rest

    def body_awaited(self) -> None:
        """The clock of the body starts: with its first byte, or when its sender is told to go on."""
        if self._pace is not None:
            self._pace.begin(self.loop.time())

    def _pause_body(self) -> None:
        if self._pace is not None and not self._pace.paused:
            self._pace.pause(self.loop.time())
            self.transport.pause_reading()
            self.server.hangups.watch(self.socket_fd, self.abort)

    def resume_body(self) -> None:
        """The app has taken what there was, or nobody will."""
        if self._pace is not None and self._pace.paused:
            self._pace.resume(self.loop.time())
            self.server.hangups.unwatch(self.socket_fd)
            if not self.transport.is_closing():
                self.transport.resume_reading()

    # --- answers

    def write(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)

    def closes_after(self, exchange: Exchange) -> bool:
        """Whether the answer that begins now is this connection's last."""
        if not exchange.body_done or self.server.draining:
            self.keep_alive = False
        return not self.keep_alive

    def exchange_done(self) -> None:
        self._exchange = None
        if not self.keep_alive or self._body is not None or self.server.draining:
            self.close()
            return
        self._enter_idle()
        pending, self._pending = self._pending, b""
        if pending:
            self._read(pending)

    def _enter_idle(self) -> None:
        self.phase = _IDLE
        self.deadline = self.loop.time() + self.server.limits.keep_alive_s
        self.server.idle(self)

    def _refuse(self, refusal: Refusal) -> None:
        exchange = self._exchange
        if exchange is not None:  # its body turned out to be malformed, too large or too slow
            exchange.break_off(refusal.status, refusal.message)
        else:
            head = refusal.head if isinstance(refusal, _Refused) else None
            self.refuse(refusal.status, refusal.message, None if head is None else head.scope)

    def refuse(self, status: int, message: str, scope: Scope | None) -> None:
        """Answers an error in place of the app, and closes."""
        headers, body = self.server.errors(status, message, scope)
        method = "GET" if scope is None else scope["method"]
        self.write(whole_answer(status, headers, body, method=method, closes=True, date=self.server.date))
        self.close()

    def close(self) -> None:
        """Lets what was written leave. A request not yet read to its end is drained for a moment: closed with unread
        bytes, the kernel would send a reset, and the client might never see its answer."""
        if self.phase is _CLOSING:
            return
        unread = self._body is not None or self.phase is _HEAD
        self.phase = _CLOSING
        self._pending = b""
        self.resume_body()
        limits = self.server.limits
        self.deadline = self.loop.time() + (limits.linger_s if unread else limits.write_stall_s)
        self.server.busy(self)
        if not unread:
            self.transport.close()
        elif self.transport.can_write_eof():
            try:
                self.transport.write_eof()
            except OSError:  # it has been reset meanwhile
                self.transport.abort()

    def finish(self) -> None:
        """Closes an idle connection, and its client knows at once, unless the last answer is still to leave."""
        if not self.is_tls and not self.transport.get_write_buffer_size():
            finish(self.socket_fd)
        self.close()

    def abort(self) -> None:
        """Drops the connection now, with everything unsent."""
        if self.phase is not _CLOSING:
            self.phase = _CLOSING
            self.server.busy(self)
            if self._exchange is not None:
                self._exchange.disconnected()  # at once: connection_lost comes a loop turn later
        self.transport.abort()

    def cut(self) -> None:
        """The server closes: the answer in the making gets its last words."""
        if self._exchange is not None:
            self._exchange.cut()
        self.close()

    # --- time

    def check(self, now: float) -> None:
        """Called by the server several times a second: ends what has taken too long."""
        limits = self.server.limits
        if self._reader_pace is not None and self._reader_pace.is_stalled(
            now, self.transport.get_write_buffer_size(), limits
        ):
            self.abort()
        elif self.phase is _BODY:
            if self._pace is not None and self._pace.is_too_slow(now, limits):
                self._refuse(Refusal(408, "the request's body came too slowly"))
        elif self.phase is _ANSWER or now < self.deadline:
            return
        elif self.phase is _HEAD:
            self._refuse(Refusal(408, "the request's headers came too slowly"))
        elif self.phase is _IDLE:
            self.close()
        elif self._reader_pace is None:
            self.abort()


class _Refused(Refusal):
    """A refusal whose request is known well enough to be answered in its dialect."""

    def __init__(self, status: int, message: str, head: Head) -> None:
        super().__init__(status, message)
        self.head = head

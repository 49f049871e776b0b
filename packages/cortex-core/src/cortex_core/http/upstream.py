"""One connection of the client: a request out, an answer in, held to a bound.

llhttp parses. An answer is whole only by its own framing: a declared length reached, or the last chunk. One that ends
with the connection, framed or not, is broken: a truncated answer must never look like a complete one.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import httptools

if TYPE_CHECKING:
    from cortex_core.http.client import Client

READ_BYTES = 8 * 2**10  # at once: what a reader leaves that has just been told to stop must fit into its bound
_HOLD_BYTES = 8 * 2**10  # more than this unread stops the reading
_JOIN_BYTES = 64 * 2**10  # a body up to this size leaves in one write with its head
_MAX_HEADERS = 200  # trailers too
_MAX_HEAD_BYTES = 64 * 2**10
_MAX_INTERIM = 8  # 1xx answers before the real one
_RECEIVE_BUFFER_BYTES = 128 * 2**10  # the kernel's part


class ConnectFailed(Exception):
    """No connection could be made: the request was certainly not executed."""


class BrokenResponse(Exception):
    """The answer did not come whole. `executed`: whether the request may have had an effect."""

    def __init__(self, message: str, executed: Literal["no", "unknown"] = "unknown") -> None:
        super().__init__(message)
        self.executed = executed


class Upstream(asyncio.BufferedProtocol):
    """The state of one exchange at a time; `idle_since` counts between two of them."""

    __slots__ = (
        "_client",
        "_head_bytes",
        "_interim",
        "_parser",
        "_paused",
        "_waiter",
        "answered",
        "closed",
        "complete",
        "error",
        "headers",
        "held_bytes",
        "idle_since",
        "loop",
        "pieces",
        "reusable",
        "status",
        "taker",
        "transport",
        "unsent",
        "write_paused",
    )

    def __init__(self, client: Client, loop: asyncio.AbstractEventLoop) -> None:
        self._client = client
        self.loop = loop
        self.transport: asyncio.Transport
        self.closed = False
        self.idle_since = 0.0
        self._parser = httptools.HttpResponseParser(self)  # of all answers: it stands where the last one ended
        self._waiter: asyncio.Future[None] | None = None
        self.taker: Callable[[bytes], bool] | None = None  # who is given pieces as they come
        self.write_paused = False  # the server does not take what was written
        self._reset()
        self.complete = True

    def _reset(self) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.error: BrokenResponse | None = None
        self.answered = False  # some byte of the answer has come
        self.complete = False
        self.reusable = False
        self.unsent = False  # the body, or the rest of it
        self._head_bytes = 0
        self._interim = 0
        self.pieces: list[bytes] = []  # of the body, that nobody has taken yet
        self.held_bytes = 0
        self._paused = False

    def begin(self, head: bytes, body: bytes | bytearray, *, wait: bool) -> None:
        """Sends a request; with `wait`, or of a large one, only the head: its body is then `unsent`."""
        self._reset()
        self.unsent = wait or len(body) > _JOIN_BYTES
        self.transport.write(head if self.unsent else head + body)

    # --- asyncio.BufferedProtocol

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        sock: socket.socket = transport.get_extra_info("socket")
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def get_buffer(self, _: int) -> memoryview:
        return self._client.buffer

    def buffer_updated(self, size: int) -> None:
        client = self._client
        client.last_byte_at = self.loop.time()
        if self.complete or self.error is not None:  # nobody asked for it
            self.transport.abort()
            return
        self.answered = True
        if not self.status:
            self._head_bytes += size
        try:
            self._parser.feed_data(client.buffer[:size])
        except httptools.HttpParserUpgrade:
            self._fail("it switched protocols")
        except httptools.HttpParserCallbackError as error:
            if isinstance(error.__context__, BrokenResponse):
                self._fail(str(error.__context__))
            else:
                raise
        except httptools.HttpParserError as error:
            self._fail(f"malformed answer: {error}")
        if not self.status and self._head_bytes > _MAX_HEAD_BYTES:
            self._fail("the answer's head is too large")
        if self.taker is not None and self.pieces and not self.taker(self.take()):
            self.taker = None
        if self.taker is None:
            self._wake()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self.write_paused = True

    def resume_writing(self) -> None:
        self.write_paused = False
        self._wake()

    def connection_lost(self, _: Exception | None) -> None:
        self.closed = True
        self._client.forget(self)
        del self._parser  # it holds us: both die by counting
        if not self.complete and self.error is None:
            self.error = BrokenResponse("the connection closed before the answer was complete")
        self._wake()

    # --- llhttp

    def on_message_begin(self) -> None:
        if self.complete:
            raise BrokenResponse("more than one answer to one request")

    def on_header(self, name: bytes, value: bytes | None) -> None:
        self.headers.append((name.lower(), value or b""))
        if len(self.headers) > _MAX_HEADERS:
            raise BrokenResponse("the answer has too many headers")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            return
        self.reusable = self._parser.should_keep_alive()
        for name, value in self.headers:
            if name == b"content-length" or (name == b"transfer-encoding" and value.lower() == b"chunked"):
                break
        else:
            if status not in (204, 304):
                raise BrokenResponse("the answer has neither a length nor chunks")
        self.status = status

    def on_body(self, piece: bytes) -> None:
        self.pieces.append(piece)
        self.held_bytes += len(piece)
        if self.held_bytes > _HOLD_BYTES and not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def on_message_complete(self) -> None:
        if not self.status:  # 1xx: the answer is still to come
            self.headers.clear()
            self._interim += 1
            if self._interim > _MAX_INTERIM:
                raise BrokenResponse("too many interim answers")
            return
        self.complete = True
        if self.unsent:
            self.reusable = False
        if self.taker is not None:
            self._wake()

    # --- the reader

    @property
    def told_to_go_on(self) -> bool:
        return self._interim > 0

    def take(self) -> bytes:
        """What has arrived."""
        data = self.pieces[0] if len(self.pieces) == 1 else b"".join(self.pieces)
        self.pieces = []
        self.held_bytes = 0
        if self._paused and not self.transport.is_closing():
            self._paused = False
            self.transport.resume_reading()
        return data

    def changed(self) -> asyncio.Future[None]:
        """To be awaited: something changes then: the head, a piece of the body, the end, or an error."""
        self._waiter = self.loop.create_future()
        return self._waiter

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def fail(self, error: BrokenResponse) -> None:
        if self.error is None and not self.complete:
            self.error = error
        self._wake()

    def _fail(self, message: str) -> None:
        self.reusable = False
        self.fail(BrokenResponse(message))
        self.transport.abort()

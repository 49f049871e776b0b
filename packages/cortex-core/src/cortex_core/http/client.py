"""The lean client for the byte path: one origin, a pool, one request a connection at a time.

    client = Client("http://beast.internal:13131")
    async with client.request("POST", "/v1/chat/completions", body=body) as response:
        while data := await response.read_some():
            ...

Nothing else: no redirects, no decompression, no cookies, no repeated requests. It costs a fraction of aiohttp's
client, which was most of what a relay of ours cost (44 to 73 us a request where aiohttp made it 116 to 122).

A pooled connection whose server has closed it is found out before it is used: between two requests it rests until the
loop has looked at all sockets again, and one that has anything to read then, or an end, is dropped. (To ask the kernel
before each request costs more than a microsecond, and is not much newer: writes leave at the end of a turn.) What fails
after a byte was written may have been executed, and is never repeated here.
"""

from __future__ import annotations

import asyncio
from collections import deque

from cortex_core.http.answer import Response
from cortex_core.http.asgi import Headers
from cortex_core.http.framing import header_lines
from cortex_core.http.listeners import parse_address
from cortex_core.http.upstream import READ_BYTES, BrokenResponse, ConnectFailed, Upstream

__all__ = ["BrokenResponse", "Client", "ConnectFailed", "Response", "header_lines"]

_KNOWN_LINES = 256


class Client:
    """A pool for one origin: `http://host:port` or `unix:/path`. Belongs to one event loop.

    `idle_s` lies below the server's keep-alive (125 s), so that a request never meets a connection that is just being
    closed. The number of connections is not bounded: admission is decided elsewhere.
    """

    def __init__(self, origin: str, *, connect_timeout_s: float = 1.0, idle_s: float = 60.0) -> None:
        self.origin = origin
        self.buffer = memoryview(bytearray(READ_BYTES))  # every read goes through it, and is parsed before the next
        self.last_byte_at = float("-inf")  # loop time (monotonic) of the last byte on any connection
        self._path: str | None = None
        self._host = b"localhost"
        if origin.startswith("unix:"):
            self._path = origin.removeprefix("unix:")
        elif origin.startswith("http://"):
            host, self._port = parse_address(origin.removeprefix("http://").rstrip("/"))
            self._name = host
            self._host = b"[%b]:%d" % (host.encode(), self._port) if ":" in host else f"{host}:{self._port}".encode()
        else:
            raise ValueError(f"{origin!r}: expected http://host:port or unix:/path")
        self._connect_timeout_s = connect_timeout_s
        self._idle_s = idle_s
        self._idle: deque[Upstream] = deque()  # the least recently used first
        self._resting: list[Upstream] = []  # given back since the loop has looked at all sockets
        self._open: set[Upstream] = set()
        self._known_lines: dict[tuple[str, str], bytes] = {}  # checked: there are few targets and many requests
        self._closed = False
        self._emptied: asyncio.Future[None] | None = None  # resolved when the last connection has closed
        self._reaper: asyncio.TimerHandle | None = None

    def request(
        self,
        method: str,
        target: str,
        *,
        headers: Headers = (),
        lines: bytes = b"",
        body: bytes | bytearray = b"",
        timeout_s: float | None = None,
        expect_continue: bool = False,
    ) -> Response:
        """A request to be entered with `async with`, which sends it and waits for the answer's head.

        `target` is the encoded path and query. `lines` are headers too, as `header_lines` gives them. `timeout_s`
        bounds the wait for the head. With `expect_continue` the body is sent only when the server asks for it. Raises
        ValueError for a target or header that could not be sent as it is, ConnectFailed, BrokenResponse.
        """
        expects = expect_continue and bool(body)
        head = (self._known_lines.get((method, target)) or self._first_lines(method, target)) + lines
        if headers:
            head += header_lines(headers)
        if body or method not in ("GET", "DELETE"):
            head += b"content-length: %d\r\n" % len(body)
        head += b"expect: 100-continue\r\n\r\n" if expects else b"\r\n"
        return Response(self, head, body, timeout_s, expects)

    @property
    def connections(self) -> int:
        return len(self._open)

    async def close(self) -> None:
        """Closes every connection, those in use as well."""
        self._closed = True
        if self._reaper is not None:
            self._reaper.cancel()
            self._reaper = None
        for connection in list(self._open):
            connection.transport.abort()
        self._idle.clear()
        self._resting.clear()
        if self._open:
            self._emptied = asyncio.get_running_loop().create_future()
            await self._emptied

    # --- the pool

    def checkout(self) -> Upstream | None:
        """An idle connection, open as far as is known: the most recently used, so that surplus ones age and go."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.transport.is_closing():
                return connection
        return None

    async def connect(self) -> Upstream:
        if self._closed:
            raise ConnectFailed(f"{self.origin}: the client is closed")
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                if self._path is not None:
                    _, connection = await loop.create_unix_connection(lambda: Upstream(self, loop), self._path)
                else:
                    _, connection = await loop.create_connection(lambda: Upstream(self, loop), self._name, self._port)
        except TimeoutError:
            raise ConnectFailed(f"{self.origin}: no connection within {self._connect_timeout_s:g} s") from None
        except OSError as error:
            raise ConnectFailed(f"{self.origin}: {error.strerror or error}") from error
        self._open.add(connection)
        return connection

    def give_back(self, connection: Upstream) -> None:
        if self._closed or connection.closed or not connection.reusable or not connection.complete or connection.pieces:
            connection.transport.abort()  # also one with an unread rest, for which reading may have stopped
            return
        loop = connection.loop  # to ask for the running one is a system call before Python 3.12
        connection.idle_since = loop.time()
        if not self._resting:
            loop.call_soon(self._rested, loop)
        self._resting.append(connection)

    def forget(self, connection: Upstream) -> None:
        self._open.discard(connection)
        if self._emptied is not None and not self._open and not self._emptied.done():
            self._emptied.set_result(None)

    def _rested(self, loop: asyncio.AbstractEventLoop) -> None:
        """A turn later: an end that came behind an answer has been heard by now."""
        self._idle += self._resting
        self._resting.clear()
        if self._reaper is None and self._idle:
            self._reaper = loop.call_later(self._idle_s, self._reap, loop)

    def _reap(self, loop: asyncio.AbstractEventLoop) -> None:
        """Closes what has been idle for too long, and comes again when the next one is due."""
        due = loop.time() - self._idle_s
        while self._idle and (self._idle[0].closed or self._idle[0].idle_since <= due):
            self._idle.popleft().transport.abort()
        self._reaper = None
        if self._idle:
            self._reaper = loop.call_at(self._idle[0].idle_since + self._idle_s, self._reap, loop)

    def _first_lines(self, method: str, target: str) -> bytes:
        if method == "HEAD":
            raise ValueError("HEAD is not sent: its answer cannot be told from a body that never comes")
        if not target.startswith("/") or not target.isascii() or not target.isprintable() or " " in target:
            raise ValueError(f"the target cannot be sent as it is: {target[:200]!r}")
        host = self._host.decode("latin-1")
        lines = f"{method} {target} HTTP/1.1\r\nhost: {host}\r\naccept-encoding: identity\r\n".encode("latin-1")
        if len(self._known_lines) >= _KNOWN_LINES:
            self._known_lines.clear()
        self._known_lines[method, target] = lines
        return lines

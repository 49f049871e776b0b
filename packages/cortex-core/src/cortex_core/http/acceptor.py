"""Takes connections off the listeners: as many as there is room for, and never in a way that hurts those there are.

asyncio's own accept loop floods the log and takes a core when descriptors run out (275,000 lines in ten seconds,
measured), and knows no bound on connections.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import resource
import socket
import ssl
from typing import TYPE_CHECKING

from cortex_core.http.connection import Connection
from cortex_core.http.listeners import address_of

if TYPE_CHECKING:
    from cortex_core.http.server import Server

log = logging.getLogger(__name__)

_BACK_OFF_S = 0.25
_ACCEPTS_PER_TURN = 32  # so that a flood of connections leaves the others their turn; fewer than reserved_fds


class Acceptor:
    """Owned by its server. `arriving` are accepted connections that have not opened yet, perhaps in a handshake."""

    def __init__(self, server: Server, listeners: list[socket.socket], ssl_context: ssl.SSLContext | None) -> None:
        self._server = server
        self._listeners = listeners
        self._ssl = ssl_context
        self._accepting = False
        self._back_off: asyncio.TimerHandle | None = None
        self._told_at = float("-inf")  # when the log last heard of a failure
        self.arriving: dict[Connection, tuple[asyncio.Task[None], socket.socket]] = {}  # oldest first
        self._descriptors = max(1, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - server.limits.reserved_fds)

    @property
    def addresses(self) -> list[str]:
        return [address_of(listener) for listener in self._listeners]

    def start(self) -> None:
        self._back_off = None
        self._accepting = True
        for listener in self._listeners:
            self._server.loop.add_reader(listener.fileno(), self._accept, listener)

    def stop(self) -> None:
        """For good: closes the listeners. Connections that are arriving still do."""
        self._pause()
        if self._back_off is not None:
            self._back_off.cancel()
            self._back_off = None
        for listener in self._listeners:
            listener.close()
        self._listeners = []

    def room_again(self) -> None:
        """A connection has closed, or a request has ended."""
        if not self._accepting and self._back_off is None:
            self.start()

    def opened(self, connection: Connection) -> None:
        self.arriving.pop(connection, None)

    def cancel(self) -> None:
        """Gives up what is arriving."""
        for task, _ in list(self.arriving.values()):
            task.cancel()

    def _pause(self) -> None:
        if self._accepting:
            self._accepting = False
            for listener in self._listeners:
                self._server.loop.remove_reader(listener.fileno())

    def _is_full(self) -> bool:
        """A request needs a descriptor more than its client's: that of the connection over which it is relayed."""
        server = self._server
        open_now = server.connections
        return open_now >= server.limits.connections or open_now + server.in_flight >= self._descriptors

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_ACCEPTS_PER_TURN):
            full = self._is_full()
            if full and not self._server.has_idle and not (self._ssl and self.arriving):
                self._pause()  # until one closes
                return
            try:
                sock, _ = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._failed(error)
                return
            if full:
                self._make_room()
            connection = Connection(self._server)
            task = self._server.loop.create_task(self._attach(connection, sock))
            self.arriving[connection] = (task, sock)
            task.add_done_callback(functools.partial(self._arrived, connection))

    def _failed(self, error: OSError) -> None:
        """Out of descriptors or memory: connections wait in the kernel's queue for a moment. One line a second."""
        now = self._server.loop.time()
        if now - self._told_at >= 1.0:
            self._told_at = now
            log.warning("cannot accept: %s; %d connections are open", error.strerror, self._server.connections)
        self._pause()
        self._back_off = self._server.loop.call_later(_BACK_OFF_S, self.start)

    def _make_room(self) -> None:
        """The oldest idle connection goes, else the oldest handshake."""
        if self._server.has_idle:
            self._server.shed()
        else:
            task, sock = self.arriving.pop(next(iter(self.arriving)))
            task.add_done_callback(lambda _: sock.close())  # it may not have begun
            task.cancel()

    async def _attach(self, connection: Connection, sock: socket.socket) -> None:
        limits = self._server.limits
        try:
            self._tune(sock)
            await self._server.loop.connect_accepted_socket(
                lambda: connection,
                sock,
                ssl=self._ssl,
                ssl_handshake_timeout=limits.tls_handshake_s if self._ssl else None,
                ssl_shutdown_timeout=limits.linger_s if self._ssl else None,
            )
        except OSError:  # the client left, or its handshake failed
            sock.close()

    def _arrived(self, connection: Connection, _: asyncio.Task[None]) -> None:
        arriving = self.arriving.pop(connection, None)
        if arriving is not None:  # it never opened: cancelled, perhaps before it had begun
            arriving[1].close()
        self._server.something_ended()

    def _tune(self, sock: socket.socket) -> None:
        limits = self._server.limits
        sock.setblocking(False)
        if limits.send_buffer_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, limits.send_buffer_bytes)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(limits.write_stall_s * 1000))

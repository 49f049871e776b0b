"""What the kernel knows of a socket that asyncio does not tell: whether its peer has gone, though nobody reads.

asyncio learns of a closed connection only by reading. A body that its app does not take pauses reading; the kernel
still reports the hang-up (EPOLLRDHUP) behind the unread bytes, to whoever asks for it: a second epoll set, itself
readable, asks. Only a client that leaves more behind than the kernel's buffers take is seen no earlier than the app
reads on: its FIN stands behind bytes that have not been accepted.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
from collections.abc import Callable


class HangupWatch:
    """Empty, it costs nothing: the epoll set is made with the first socket."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._epoll: select.epoll | None = None
        self._callbacks: dict[int, Callable[[], None]] = {}

    def watch(self, fd: int, gone: Callable[[], None]) -> None:
        """Calls `gone` once, when the peer of `fd` has closed its side or reset the connection."""
        if self._epoll is None:
            self._epoll = select.epoll()
            self._loop.add_reader(self._epoll.fileno(), self._ready)
        self._callbacks[fd] = gone
        self._epoll.register(fd, select.EPOLLRDHUP | select.EPOLLONESHOT)

    def unwatch(self, fd: int) -> None:
        if self._epoll is not None and self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def close(self) -> None:
        if self._epoll is not None:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._epoll = None

    def _ready(self) -> None:
        assert self._epoll is not None
        for fd, _ in self._epoll.poll(0):
            gone = self._callbacks.get(fd)
            if gone is not None:
                gone()


def finish(fd: int) -> None:
    """Tells the peer of a socket in this very moment that nothing more will come. A transport does that some turns of
    the loop after it was closed, and a request that is sent meanwhile would be lost."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as sock:
        sock.shutdown(socket.SHUT_WR)


def readable(fd: int) -> bool:
    """Whether bytes, the end or an error wait on a socket."""
    poll = select.poll()
    poll.register(fd, select.POLLIN | select.POLLRDHUP)
    return bool(poll.poll(0))

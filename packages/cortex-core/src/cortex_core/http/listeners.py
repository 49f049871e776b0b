"""Listening sockets from an address: TCP, unix, or inherited from a parent.

A listener is bound once and handed on, never closed and bound again: with SO_REUSEPORT a closed one loses the
connections that wait in it (half of 400, measured), and a restart through an inherited one refuses nobody.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path


class UnixListener(socket.socket):
    """A unix listener that takes its file along when the process that bound it closes it."""

    _file: tuple[str, int] | None = None

    def own(self, path: str) -> None:
        self._file = (path, os.getpid())

    def close(self) -> None:
        if self._file is not None and self._file[1] == os.getpid():
            Path(self._file[0]).unlink(missing_ok=True)
        self._file = None
        super().close()


def bind(address: str, *, reuse_port: bool = False, backlog: int = 2048) -> socket.socket:
    """A non-blocking, listening socket for `host:port`, `[v6]:port`, `unix:/path` or `fd:N`.

    Raises ValueError for an address that is none of these, and OSError, with the address in its text, when the system
    refuses it.
    """
    if address.startswith("unix:"):
        return _bind_unix(address.removeprefix("unix:"), backlog)
    if address.startswith("fd:"):
        return inherit(_number(address, address.removeprefix("fd:"), 2**20))
    host, port = parse_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        if family == socket.AF_INET:
            family, _, _, _, _ = socket.getaddrinfo(
                host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise _explained(error, address) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if host == "::" else 1)
        listener.bind((host, port))
        listener.listen(backlog)
    except OSError as error:
        listener.close()
        raise _explained(error, address) from error
    listener.setblocking(False)
    return listener


def inherit(fd: int) -> socket.socket:
    """The listening socket that the parent left open at `fd`."""
    try:
        listener = socket.socket(fileno=fd)
    except OSError as error:
        raise _explained(error, f"fd:{fd}") from error
    if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        listener.detach()
        raise OSError(errno.EINVAL, f"fd:{fd} is not a listening socket")
    listener.setblocking(False)
    return listener


def address_of(listener: socket.socket) -> str:
    """The address a client would use, in the form that `bind` takes."""
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"unix:{name}"
    return f"[{name[0]}]:{name[1]}" if listener.family == socket.AF_INET6 else f"{name[0]}:{name[1]}"


def parse_address(address: str) -> tuple[str, int]:
    """`host:port` or `[v6]:port` as (host, port); ValueError says what is wrong with it."""
    host, colon, port = address.rpartition(":")
    if not colon:
        raise ValueError(f"{address!r}: expected host:port, [v6]:port, unix:/path or fd:N")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{address!r}: an IPv6 address stands in brackets, as in [::1]:31313")
    return host, _number(address, port, 65535)


def _bind_unix(path: str, backlog: int) -> socket.socket:
    _remove_stale(path)
    listener = UnixListener(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
        listener.own(path)
        listener.listen(backlog)
    except OSError as error:  # a path over 107 bytes is one of them
        listener.close()
        raise _explained(error, f"unix:{path}") from error
    listener.setblocking(False)
    return listener


def _remove_stale(path: str) -> None:
    """Removes a socket file that nobody listens on any more; a live one stays, and binding then says so."""
    try:
        if not stat.S_ISSOCK(Path(path).stat().st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink(missing_ok=True)
        except OSError:
            return


def _number(field: str, text: str, most: int) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) > most:
        raise ValueError(f"{field!r}: expected a number from 0 to {most}, not {text!r}")
    return int(text)


def _explained(error: OSError, address: str) -> OSError:
    return type(error)(error.errno, f"cannot listen on {address}: {error.strerror or error}")

"""One gateway of several: `python -m cortex_gateway.serving.child`, started with a socket as its stdin."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path

import msgspec
from msgspec import Struct

from cortex_core.config import Catalogue, CortexConfig
from cortex_core.http import run
from cortex_core.logs import set_up_logs
from cortex_gateway.serving.life import Life, calm_the_collector
from cortex_gateway.serving.server import serve

SIZE_BYTES = 4  # before the setup, big-endian
SERVES = b"\1"


class Setup(Struct, frozen=True):
    """What a child is told first. Over the socket: it holds the token."""

    config: CortexConfig
    catalogue: Catalogue
    counts: str  # the file into which it puts its last metrics


class Child(Life):
    """The parent's end of sending, or its death, asks to stop; ours says that we accept no more."""

    def __init__(self, control: socket.socket, counts: str) -> None:
        super().__init__()
        self._control = control
        self._counts = counts

    def started(self, address: str, metrics: str) -> None:  # noqa: ARG002 - the parent has both
        calm_the_collector()
        self._control.setblocking(False)
        self._control.send(SERVES)
        asyncio.get_running_loop().add_reader(self._control, self._told)

    def stopping(self) -> None:
        asyncio.get_running_loop().remove_reader(self._control)
        self._control.shutdown(socket.SHUT_WR)

    def ended(self, metrics: bytes) -> None:
        with contextlib.suppress(OSError):  # the parent is gone
            Path(self._counts + ".part").write_bytes(metrics)
            Path(self._counts + ".part").rename(self._counts)

    def signalled(self) -> None:
        """A service manager may signal every process of ours: that is no second signal. The parent kills if it must."""
        self.stop.set()

    def _told(self) -> None:
        asyncio.get_running_loop().remove_reader(self._control)
        self.stop.set()


def main() -> None:
    set_up_logs()
    with socket.socket(fileno=0) as control:
        size = int.from_bytes(_read(control, SIZE_BYTES))
        setup = msgspec.msgpack.decode(_read(control, size), type=Setup)
        run(_serve(setup, control))


async def _serve(setup: Setup, control: socket.socket) -> None:
    await serve(setup.config, setup.catalogue, Child(control, setup.counts))


def _read(control: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = control.recv(size - len(data))
        if not piece:
            raise SystemExit("the parent is gone")
        data += piece
    return bytes(data)


if __name__ == "__main__":
    main()

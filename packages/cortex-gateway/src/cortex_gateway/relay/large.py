"""Large bodies are read by a process of their own: what takes long there stops nobody here.

A body of 32 MiB that is made for it costs seconds, and a thread would not help: a parser holds the interpreter's lock
for as long as it runs. One process reads one body at a time; it is started for the first, and ended when a body takes
longer than any honest one.
"""

from __future__ import annotations

import asyncio
import pickle
import socket
import subprocess
import sys
from types import TracebackType
from typing import Any, Self

from msgspec import structs

from cortex_core.errors import CortexError, Dialect
from cortex_gateway.policy.body import Resolve, Target, Wanted
from cortex_gateway.relay.reader import SIZE_BYTES

LARGE_BYTES = 128 << 10  # below it the worst of bodies takes some 20 ms
READ_S = 15.0  # for one body, its turn not counted
_PIECE_BYTES = 256 << 10  # moved within one turn of the loop


class Large:
    """Owns the process; leaving the block ends it."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    async def read(self, body: bytes, dialect: Dialect, resolve: Resolve, *, counting: bool) -> Wanted:
        """As `policy.body.read`. Raises CortexError, also where it takes too long."""
        async with self._turn:
            whole = False
            try:
                async with asyncio.timeout(READ_S):
                    wanted = await self._read(body, dialect, resolve, counting=counting)
                whole = True
            except TimeoutError:
                raise CortexError("bad_request", "the body takes too long to read: send less, or simpler") from None
            except OSError as error:
                raise CortexError("no_capacity", "there is no process that reads large bodies: come again") from error
            finally:
                if not whole:  # it stands in the middle of something
                    self._end()
            if isinstance(wanted, CortexError):
                raise wanted
            return wanted

    async def _read(self, body: bytes, dialect: Dialect, resolve: Resolve, *, counting: bool) -> Wanted | CortexError:
        if self._process is None or self._process.poll() is not None:
            self._start()
        await self._send(pickle.dumps((dialect, counting)))
        await self._send(body)
        unknown: CortexError | None = None
        while True:
            reply: Any = pickle.loads(await self._receive())  # noqa: S301 - our child's, of structs of ours
            if isinstance(reply, Wanted):
                return structs.replace(reply, payload=await self._receive())
            if not isinstance(reply, str):
                kind, message, param = reply
                return unknown or CortexError(kind, message, param=param)
            target: Target | None = None
            try:
                target = resolve(reply)
            except CortexError as error:
                unknown = error
            await self._send(pickle.dumps(target))

    def _start(self) -> None:
        self._end()
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-P", "-m", "cortex_gateway.relay.reader"]
            try:
                self._process = subprocess.Popen(command, stdin=theirs.fileno(), start_new_session=True)
            except OSError:
                ours.close()
                raise
        ours.setblocking(False)
        self._control = ours

    def _end(self) -> None:
        if self._process is not None:
            self._control.close()
            self._process.kill()
            self._process.wait()
            self._process = None

    async def _send(self, data: bytes) -> None:
        loop, view = asyncio.get_running_loop(), memoryview(data)
        await loop.sock_sendall(self._control, len(data).to_bytes(SIZE_BYTES))
        while view:
            await loop.sock_sendall(self._control, view[:_PIECE_BYTES])
            view = view[_PIECE_BYTES:]

    async def _receive(self) -> bytes:
        size = int.from_bytes(await self._exactly(SIZE_BYTES))
        return await self._exactly(size)

    async def _exactly(self, size: int) -> bytes:
        loop, pieces = asyncio.get_running_loop(), []
        while size:
            piece = await loop.sock_recv(self._control, min(size, _PIECE_BYTES))
            if not piece:
                raise ConnectionResetError("the reader of large bodies has ended")
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

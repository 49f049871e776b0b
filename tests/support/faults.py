"""A test double for everything that goes wrong on a wire: a proxy on loopback that delays, drips, re-chunks, corrupts,
closes, resets, or falls silent, at a chosen byte.

    async with FaultyWire(server_address, Fault(after_bytes=120, then=Then.RESET)) as wire:
        client = Client(f"http://{wire.address}")

`wire.fault` may be changed at any time: it holds for connections that come after.
"""

from __future__ import annotations

import asyncio
import enum
import random
import socket
import struct
from dataclasses import dataclass, field
from typing import Self


class Then(enum.Enum):
    """What happens once so many bytes have passed."""

    NOTHING = enum.auto()
    CLOSE = enum.auto()  # both sides, in order: FIN
    RESET = enum.auto()  # both sides at once: RST
    SILENCE = enum.auto()  # half-open: nothing passes any more, in either direction, and nobody is told
    CORRUPT = enum.auto()  # one byte is flipped, all others pass
    STALL = enum.auto()  # this direction is no longer read: its sender runs into back-pressure


@dataclass(frozen=True)
class Fault:
    """One wire's fault. Its bytes are counted in one direction: those of the answer, or of the request."""

    after_bytes: int = 0
    then: Then = Then.NOTHING
    of_request: bool = False  # else of the answer
    delay_s: float = 0.0  # before each piece that passes
    piece_bytes: int = 0  # pieces of so many bytes (1: a drip); 0: as they come
    seed: int | None = None  # pieces of random size, up to piece_bytes or 100


@dataclass
class Tape:
    """What has passed over one connection."""

    request: bytearray = field(default_factory=bytearray)
    answer: bytearray = field(default_factory=bytearray)


@dataclass(eq=False)
class FaultyWire:
    """Between its own address and `target` (host:port or unix:/path)."""

    target: str
    fault: Fault = field(default_factory=Fault)
    accepted: int = 0  # connections from clients
    open: int = 0  # connections alive on either side
    passed: int = 0  # bytes of answers that have passed, over all connections
    tapes: list[Tape] | None = None  # given a list, every connection is recorded

    async def __aenter__(self) -> Self:
        self._lines: dict[asyncio.Task[None], _Line | None] = {}  # None: the far side is still connected to
        self._drops = self._hushes = 0
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self.address = f"{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        lines = list(self._lines)
        for line in lines:
            line.cancel()
        await asyncio.gather(*lines, return_exceptions=True)
        await self._server.wait_closed()

    def heal(self) -> None:
        """Connections from now on pass everything."""
        self.fault = Fault()

    def hush(self) -> None:
        """Every connection that is open now falls silent; later ones pass."""
        self._hushes += 1
        for line in self._lines.values():
            if line is not None:
                line.silent = True

    def drop(self) -> None:
        """Every connection that is open now is closed, both ways; later ones pass."""
        self._drops += 1
        for line in self._lines.values():
            if line is not None:
                line.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._lines[task] = None
        self.accepted += 1
        try:
            await self._line(task, reader, writer)
        except asyncio.CancelledError:
            pass  # the proxy closes: asyncio's streams would report a cancelled handler as an error
        finally:
            del self._lines[task]
            writer.transport.abort()

    async def _line(self, task: asyncio.Task[None], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        fault, drops, hushes = self.fault, self._drops, self._hushes
        try:
            if self.target.startswith("unix:"):
                far = await asyncio.open_unix_connection(self.target.removeprefix("unix:"))
            else:
                host, _, port = self.target.rpartition(":")
                far = await asyncio.open_connection(host, int(port))
        except OSError:
            _reset(writer)
            return
        self.open += 1
        line = self._lines[task] = _Line(self, fault, (reader, writer), far)
        line.silent = hushes != self._hushes
        if drops != self._drops:
            line.close()
        try:
            await line.run()
        finally:
            self.open -= 1
            far[1].transport.abort()


class _Line:
    """One connection through the proxy."""

    def __init__(
        self,
        wire: FaultyWire,
        fault: Fault,
        near: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        far: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self._wire = wire
        self._fault = fault
        self._near = near
        self._far = far
        self._random = None if fault.seed is None else random.Random(fault.seed)
        self.silent = False
        self._over = asyncio.Event()
        self._tape = Tape()
        if wire.tapes is not None:
            wire.tapes.append(self._tape)

    async def run(self) -> None:
        """Until either side has closed, or the fault has ended it."""
        async with asyncio.TaskGroup() as group:
            pumps = [
                group.create_task(self._pump(self._near[0], self._far[1], of_request=True)),
                group.create_task(self._pump(self._far[0], self._near[1], of_request=False)),
            ]
            await self._over.wait()
            for pump in pumps:
                pump.cancel()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, of_request: bool) -> None:
        counted = of_request is self._fault.of_request and self._fault.then is not Then.NOTHING
        seen = 0
        try:
            while data := await source.read(65536):
                for piece in self._pieces(data):
                    if self._fault.delay_s:
                        await asyncio.sleep(self._fault.delay_s)
                    left = self._fault.after_bytes - seen
                    seen += len(piece)
                    if counted and left < len(piece):
                        await self._strike(sink, piece, max(left, 0), of_request=of_request)
                        if self._fault.then is not Then.CORRUPT:
                            return
                        counted = False
                    else:
                        await self._pass(sink, piece, of_request=of_request)
            if not self.silent:  # a close passes in order
                sink.write_eof()
                if not of_request:
                    self._over.set()
        except OSError:
            self._over.set()

    def close(self) -> None:
        for end in (self._near[1], self._far[1]):
            end.close()
        self._over.set()

    async def _strike(self, sink: asyncio.StreamWriter, piece: bytes, at: int, *, of_request: bool) -> None:
        await self._pass(sink, piece[:at], of_request=of_request)
        match self._fault.then:
            case Then.CLOSE:
                self.close()
            case Then.RESET:
                for end in (self._near[1], self._far[1]):
                    _reset(end)
                self._over.set()
            case Then.SILENCE:
                self.silent = True
            case Then.CORRUPT:
                await self._pass(sink, bytes([piece[at] ^ 0x20]) + piece[at + 1 :], of_request=of_request)
            case Then.STALL | Then.NOTHING:
                pass

    async def _pass(self, sink: asyncio.StreamWriter, piece: bytes, *, of_request: bool) -> None:
        if piece and not self.silent:
            tape = self._tape.request if of_request else self._tape.answer
            if self._wire.tapes is not None:
                tape += piece
            sink.write(piece)
            await sink.drain()
            if not of_request:
                self._wire.passed += len(piece)

    def _pieces(self, data: bytes) -> list[bytes]:
        most = self._fault.piece_bytes
        if self._random is not None:
            most = most or 100
            pieces = []
            while data:
                size = self._random.randint(1, most)
                pieces.append(data[:size])
                data = data[size:]
            return pieces
        return [data[i : i + most] for i in range(0, len(data), most)] if most else [data]


def _reset(writer: asyncio.StreamWriter) -> None:
    """Closes with RST: what has not been sent is lost, and the peer's next read fails."""
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()

"""A raw HTTP/1.1 client that sends exactly the bytes it is told to, and a server around any ASGI app."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from cortex_core.http import ASGIApp, Limits, Server, bind


@asynccontextmanager
async def serving(app: ASGIApp, address: str = "127.0.0.1:0", **options: Any) -> AsyncIterator[Server]:
    """`app` on a socket of its own; keyword arguments that Server does not know are Limits."""
    known = {name: options.pop(name) for name in ("errors", "on_error", "ssl_context") if name in options}
    async with Server(app, listeners=[bind(address)], limits=Limits(**options), **known) as server:
        yield server


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    clean: bool  # ended by its own framing, not by the connection


class Raw:
    """One connection. Every read has a deadline."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()

    async def answer(self, *, bodyless: bool = False, timeout_s: float = 5.0) -> Answer:
        """The next whole answer; `clean` is False where the connection ended it."""
        async with asyncio.timeout(timeout_s):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            status = int(first.split(" ")[1])
            if bodyless or status < 200 or status in (204, 304):
                return Answer(status, headers, b"", True)
            if "content-length" in headers:
                try:
                    body = await self.reader.readexactly(int(headers["content-length"]))
                except asyncio.IncompleteReadError as error:
                    return Answer(status, headers, error.partial, False)
                return Answer(status, headers, body, True)
            if headers.get("transfer-encoding") == "chunked":
                return Answer(status, headers, *await self._chunks())
            return Answer(status, headers, await self.reader.read(), False)

    async def _chunks(self) -> tuple[bytes, bool]:
        body = b""
        try:
            while True:
                size = int(await self.reader.readuntil(b"\r\n"), 16)
                piece = await self.reader.readexactly(size + 2)
                if size == 0:
                    return body, True
                body += piece[:-2]
        except (asyncio.IncompleteReadError, ConnectionError):
            return body, False

    async def until(self, mark: bytes, timeout_s: float = 5.0) -> bytes:
        async with asyncio.timeout(timeout_s):
            return await self.reader.readuntil(mark)

    async def closed(self, timeout_s: float = 5.0) -> bytes:
        """Waits for the server to close, and gives what came before."""
        async with asyncio.timeout(timeout_s):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    def abort(self) -> None:
        self.writer.transport.abort()


@asynccontextmanager
async def raw(server: Server | str, **options: Any) -> AsyncIterator[Raw]:
    """A connection to the server's first address."""
    address = server if isinstance(server, str) else server.addresses[0]
    if address.startswith("unix:"):
        reader, writer = await asyncio.open_unix_connection(address.removeprefix("unix:"), **options)
    else:
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host.strip("[]"), int(port), **options)
    try:
        yield Raw(reader, writer)
    finally:
        writer.transport.abort()


def request(
    method: str = "GET", target: str = "/", body: bytes = b"", headers: tuple[tuple[str, str], ...] = ()
) -> bytes:
    """A well-formed request."""
    lines = [f"{method} {target} HTTP/1.1", "Host: test", *(f"{name}: {value}" for name, value in headers)]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body

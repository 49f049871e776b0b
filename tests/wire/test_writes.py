"""System calls are what a relay pays for: how many writes an answer takes, and what is in the first one."""

from __future__ import annotations

from typing import Any

from cortex_core.http import Client, EventStream, Receive, Request, Scope, Send, respond
from cortex_core.http.connection import Connection
from tests.support.until import until_async
from tests.support.wire import Raw, raw, request, serving


class Counted:
    """A connection's transport, with a record of its writes."""

    def __init__(self, connection: Connection) -> None:
        self._transport = connection.transport
        self.writes: list[bytes] = []
        connection.transport = self  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        self._transport.write(data)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    await Request(scope, receive).body()
    if scope["path"] == "/stream":
        async with EventStream(send) as stream:
            await stream.start(200)
            for number in range(3):
                await stream.write(b"data: %d\n\n" % number)
            await stream.end(b"data: [DONE]\n\n")
    else:
        await respond(send, 200, b"{}")


async def ask(client: Raw, path: str) -> bytes:
    await client.send(request("POST", path, b"{}"))
    return (await client.answer()).body


async def test_a_whole_answer_is_one_write() -> None:
    async with serving(app) as server, raw(server) as client:
        await ask(client, "/")
        counted = Counted(next(iter(server._connections)))
        for _ in range(3):
            await ask(client, "/")
        assert len(counted.writes) == 3


async def test_a_stream_is_a_write_a_piece_and_none_for_its_head_or_end() -> None:
    """The first event leaves with the head, at once; the last one with the end."""
    async with serving(app) as server, raw(server) as client:
        await ask(client, "/")
        counted = Counted(next(iter(server._connections)))
        await ask(client, "/stream")
        assert len(counted.writes) == 4
        assert counted.writes[0].startswith(b"HTTP/1.1 200 OK\r\n")
        assert counted.writes[0].endswith(b"\r\n9\r\ndata: 0\n\n\r\n")
        assert counted.writes[3] == b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


async def test_what_arrives_together_is_read_together() -> None:
    """Chunks that come while their reader is busy are one piece to it, and so one write to its own client."""
    async with serving(app) as server:
        client = Client(f"http://{server.addresses[0]}")
        async with client.request("GET", "/stream") as response:
            await until_async(lambda: response.complete)
            assert await response.read_some() == b"data: 0\n\ndata: 1\n\ndata: 2\n\ndata: [DONE]\n\n"
            assert await response.read_some() == b""
        await client.close()


async def test_a_push_is_written_at_once_or_not_at_all() -> None:
    """For a reader that is behind nothing more is taken, and nothing is lost."""
    said: list[bytes] = []

    async def pushing(scope: Scope, receive: Receive, send: Send) -> None:
        async with EventStream(send) as stream:
            assert not stream.push(b"too early")
            await stream.start(200)
            number = 0
            while stream.push(piece := b"%d " % number * 1000):
                said.append(piece)
                number += 1
            assert sum(map(len, said)) < 8 << 20  # what kernels hold, and no more
            await stream.write(piece)  # waits until the reader has gone on
            assert stream.push(b"on")
            said.extend((piece, b"on"))
            await stream.end()

    async with serving(pushing) as server, raw(server) as client:
        await client.send(request())
        answer = await client.answer()
        assert answer.clean
        assert answer.body == b"".join(said)

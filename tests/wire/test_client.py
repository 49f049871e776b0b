"""The byte-path client: whole answers or errors, a pool that never repeats a request, back-pressure, clean aborts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cortex_core.http import (
    BodyTooLarge,
    BrokenResponse,
    Client,
    ConnectFailed,
    EventStream,
    Receive,
    Request,
    Scope,
    Send,
    Server,
    respond,
)
from tests.support.ports import free_port
from tests.support.until import until_async
from tests.support.wire import serving

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def client_of(server: Server | str, **options: float) -> AsyncIterator[Client]:
    address = server if isinstance(server, str) else server.addresses[0]
    client = Client(address if address.startswith("unix:") else f"http://{address}", **options)
    yield client
    await client.close()


@asynccontextmanager
async def scripted(script: Script) -> AsyncIterator[str]:
    """A server that does what a script says, for each connection."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await script(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    yield f"{host}:{port}"
    server.close()
    await server.wait_closed()


async def fetch(client: Client, body: bytes = b"") -> bytes:
    async with client.request("POST", "/", body=body, timeout_s=5.0) as response:
        return await response.read(10**6)


def answering(*pieces: bytes, requests: int = 1) -> Script:
    """Reads a head, writes the pieces, closes after so many requests."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(requests):
            await reader.readuntil(b"\r\n\r\n")
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)

    return script


async def never(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.Event().wait()


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    asked = Request(scope, receive)
    body = await asked.body()
    await respond(
        send, 200, body, [(b"x-target", asked.raw_path), (b"x-expect", (asked.header("expect") or "").encode())]
    )


@pytest.mark.parametrize("body", [b"", b"hello", b"x" * 1_000_000])
@pytest.mark.parametrize("expect", [False, True])
async def test_a_request_and_its_answer(body: bytes, expect: bool) -> None:
    async with serving(echo) as server, client_of(server) as client:
        for _ in range(3):
            async with client.request("POST", "/a?b=c", body=body, expect_continue=expect) as response:
                assert response.status == 200
                assert response.header(b"x-target") == b"/a"
                assert await response.read(2_000_000) == body
                assert response.complete
            await asyncio.sleep(0)  # a connection rests for a turn of the loop
        assert client.connections == server.connections == 1
        assert client.last_byte_at <= asyncio.get_running_loop().time()


async def test_a_large_body_leaves_as_fast_as_it_is_read() -> None:
    """Little of it is held between the caller and the kernel, and none of it is copied before its turn."""
    read_on = asyncio.Event()

    async def reads_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await read_on.wait()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n%08d" % len(await reader.readexactly(20_000_000)))
        await writer.drain()

    async with scripted(reads_late) as address, client_of(address) as client:

        async def ask() -> bytes:
            async with client.request("POST", "/", body=bytearray(20_000_000)) as response:
                return await response.read(100)

        async with asyncio.TaskGroup() as tasks:
            asking = tasks.create_task(ask())
            await until_async(lambda: any(connection.write_paused for connection in client._open))
            [connection] = client._open
            assert connection.transport.get_write_buffer_size() <= 1_000_000
            read_on.set()
        assert asking.result() == b"20000000"


async def test_an_answer_before_the_body_was_read_is_the_last_of_its_connection() -> None:
    async def answers_early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 2\r\n\r\nno")
        await writer.drain()
        await over.wait()

    over = asyncio.Event()
    async with scripted(answers_early) as address, client_of(address) as client:
        async with client.request("POST", "/", body=b"x" * 20_000_000) as response:
            assert (response.status, await response.read(10)) == (413, b"no")
        await until_async(lambda: client.connections == 0)
        over.set()


async def test_a_server_that_goes_while_a_body_is_sent_is_a_broken_answer() -> None:
    async def goes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(100_000)

    async with scripted(goes) as address, client_of(address) as client:
        with pytest.raises(BrokenResponse):
            async with client.request("POST", "/", body=b"x" * 20_000_000):
                pass


async def test_unix_socket(short_path: Path) -> None:
    async with serving(echo, f"unix:{short_path}/s") as server, client_of(server) as client:
        async with client.request("POST", "/", body=b"abc") as response:
            assert await response.read(10) == b"abc"


async def test_a_stream_comes_as_it_comes() -> None:
    go_on = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async with EventStream(send) as stream:
            await stream.start(200)
            await stream.write(b"data: 1\n\n")
            await go_on.wait()
            await stream.write(b"data: 2\n\n")
            await stream.end()

    async with serving(app) as server, client_of(server) as client:
        async with client.request("GET", "/") as response:
            assert await response.read_some() == b"data: 1\n\n"
            go_on.set()
            assert await response.read_some() == b"data: 2\n\n"
            assert await response.read_some() == b""


class Sleeps:
    """Awaits something, and counts how often that waits."""

    def __init__(self, waits: Coroutine[Any, Any, None]) -> None:
        self._waits = waits
        self.count = 0

    def __await__(self) -> Generator[Any, Any, None]:
        for waited_for in self._waits.__await__():
            self.count += 1
            yield waited_for


async def test_what_is_poured_wakes_nobody() -> None:
    taken = asyncio.Event()
    pieces: list[bytes] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async with EventStream(send) as stream:
            await stream.start(200)
            for number in range(50):
                await stream.write(b"data: %d\n\n" % number)
                await taken.wait()
                taken.clear()
            await stream.end()

    def take(data: bytes) -> bool:
        pieces.append(data)
        taken.set()
        return True

    async with serving(app) as server, client_of(server) as client:
        async with client.request("GET", "/") as response:
            sleeps = Sleeps(response.pour(take))
            await sleeps
            assert pieces == [b"data: %d\n\n" % number for number in range(50)]
            assert sleeps.count <= 2
            assert response.ended


async def test_who_pours_no_more_reads_the_rest() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async with EventStream(send) as stream:
            await stream.start(200)
            for _ in range(100):
                await stream.write(b"x" * 1000)
                await asyncio.sleep(0)
            await stream.end()

    sizes: list[int] = []

    def take(data: bytes) -> bool:
        sizes.append(len(data))
        return len(sizes) % 2 == 1

    async with serving(app) as server, client_of(server) as client:
        async with client.request("GET", "/") as response:
            while not response.ended:
                await response.pour(take)
                sizes.append(len(await response.read_some()))
        assert sum(sizes) == 100_000


async def test_leaving_early_aborts_at_once() -> None:
    cancelled = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            stream = EventStream(send)
            await stream.start(200)
            await stream.write(b"data: 1\n\n")
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with serving(app) as server, client_of(server) as client:
        async with client.request("GET", "/") as response:
            await response.read_some()
        async with asyncio.timeout(1):
            await cancelled.wait()
        await until_async(lambda: client.connections == 0)


async def test_a_cancelled_wait_for_the_head_aborts() -> None:
    async with serving(never) as server, client_of(server) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1), client.request("GET", "/"):
                pass
        await until_async(lambda: server.in_flight == 0 and client.connections == 0)


async def test_no_head_in_time() -> None:
    async with serving(never) as server, client_of(server) as client:
        with pytest.raises(BrokenResponse, match="no answer within") as caught:
            async with client.request("GET", "/", timeout_s=0.05):
                pass
        assert caught.value.executed == "unknown"
        await until_async(lambda: server.in_flight == 0)


async def test_a_limit_on_what_is_read() -> None:
    async with serving(echo) as server, client_of(server) as client:
        async with client.request("POST", "/", body=b"x" * 1000) as response:
            with pytest.raises(BodyTooLarge):
                await response.read(999)


async def test_back_pressure() -> None:
    """Of a reader that does not read, the client holds little, and the server's app waits."""
    written = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal written
        stream = EventStream(send)
        await stream.start(200)
        while True:
            await stream.write(b"x" * 10_000)
            written += 10_000

    async with serving(app) as server, client_of(server) as client:
        async with client.request("GET", "/") as response:
            before = -1
            while written != before:  # until nothing moves any more
                before = written
                await asyncio.sleep(0.1)
            assert written < 2_000_000
            held = response._connection.held_bytes
            assert held <= 64 * 1024 + 256 * 1024  # the bound, and one read of asyncio's beyond it
            assert len(await response.read_some()) == held


# --- what goes wrong


async def test_nobody_listens(short_path: Path) -> None:
    for origin in (f"http://127.0.0.1:{free_port()}", f"unix:{short_path}/none"):
        client = Client(origin)
        with pytest.raises(ConnectFailed):
            async with client.request("GET", "/"):
                pass
        await client.close()


WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"


@pytest.mark.parametrize("message", [WHOLE, CHUNKED])
@pytest.mark.parametrize("size", [1, 3, 1000])
async def test_an_answer_at_any_split_goal_R05(message: bytes, size: int) -> None:
    pieces = [message[i : i + size] for i in range(0, len(message), size)]
    async with scripted(answering(*pieces)) as address, client_of(address) as client:
        async with client.request("GET", "/") as response:
            assert await response.read(100) == (b"hello" if message is WHOLE else b"hello world")


@pytest.mark.parametrize("message", [WHOLE, CHUNKED])
async def test_an_answer_cut_anywhere_is_broken_goal_R04(message: bytes) -> None:
    """At every byte: in the head, a size, a chunk, a line end, before the last one."""
    for cut in range(len(message)):
        async with scripted(answering(message[:cut])) as address, client_of(address) as client:
            with pytest.raises(BrokenResponse) as caught:
                await fetch(client, body=b"{}")
            assert caught.value.executed == "unknown"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n\r\nuntil the connection closes",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nA\x00: b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 300 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 100,
        b"HTTP/2 200\r\n\r\n",
        b"not HTTP at all\r\n\r\n",
        b"",
    ],
)
async def test_a_hostile_answer_is_broken(answer: bytes) -> None:
    async with scripted(answering(answer)) as address, client_of(address) as client:
        with pytest.raises(BrokenResponse):
            await fetch(client)
        await until_async(lambda: client.connections == 0)


async def test_interim_answers_are_passed_over() -> None:
    script = answering(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", WHOLE)
    async with scripted(script) as address, client_of(address) as client:
        async with client.request("GET", "/") as response:
            assert response.header(b"link") is None
            assert await response.read(100) == b"hello"


async def test_a_connection_that_closed_while_idle_is_not_used_goal_R02() -> None:
    """The server closes each connection behind its answer, unannounced. No request is lost, none sent twice."""
    heads = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal heads
        await reader.readuntil(b"\r\n\r\n")
        heads += 1
        writer.write(WHOLE)

    async with scripted(script) as address, client_of(address) as client:
        for _ in range(50):
            async with client.request("POST", "/") as response:
                assert await response.read(100) == b"hello"
            await asyncio.sleep(0)  # the close may or may not have arrived
            await until_async(lambda: client.connections == 0 or client.checkout() is None, poll_s=0)
    assert heads == 50


async def test_what_may_have_been_executed_is_never_repeated_goal_R02() -> None:
    heads = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal heads
        await reader.readuntil(b"\r\n\r\n")
        writer.write(WHOLE)
        await reader.readuntil(b"\r\n\r\n")
        heads += 1  # the second request is read, and the connection closed

    async with scripted(script) as address, client_of(address) as client:
        async with client.request("POST", "/") as response:
            await response.read(100)
        await asyncio.sleep(0)  # it rests for a turn of the loop
        with pytest.raises(BrokenResponse) as caught:
            async with client.request("POST", "/"):
                pass
    assert (heads, caught.value.executed) == (1, "unknown")


@pytest.mark.parametrize("surplus", [WHOLE, b"garbage"])
async def test_a_connection_with_bytes_nobody_asked_for_is_not_used_again(surplus: bytes) -> None:
    async with scripted(answering(WHOLE + surplus)) as address, client_of(address) as client:
        for _ in range(3):
            assert await fetch(client) == b"hello"
            await until_async(lambda: client.connections == 0)


MANY = b"".join(b"X-%d: y\r\n" % number for number in range(300))


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n" + MANY + b"\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n" + MANY + b"\r\n",
    ],
)
async def test_too_many_headers_or_trailers_are_a_broken_answer(answer: bytes) -> None:
    async with scripted(answering(answer)) as address, client_of(address) as client:
        with pytest.raises(BrokenResponse, match="too many headers"):
            await fetch(client)


async def test_an_answer_left_unread_does_not_stop_the_next() -> None:
    """Reading has stopped behind it: its connection is not used again."""
    size = 12_000  # more than is held at once, and whole all the same
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (size, b"x" * size)
    async with scripted(answering(answer, requests=3)) as address, client_of(address) as client:
        for _ in range(3):
            async with client.request("GET", "/", timeout_s=5.0) as response:
                await until_async(lambda: response.complete)
            await asyncio.sleep(0)


async def test_idle_connections_are_closed_before_the_server_does() -> None:
    async with serving(echo) as server, client_of(server, idle_s=0.05) as client:
        async with client.request("GET", "/") as response:
            await response.read(10)
        assert client.connections == 1
        await until_async(lambda: client.connections == 0 and server.connections == 0)


@pytest.mark.parametrize("target", ["models", "/a b", "/a\r\nb", "/a\nb", "/\0", "/é", "/\x7f", "http://x/", ""])
async def test_a_target_that_cannot_be_sent_as_it_is(target: str) -> None:
    with pytest.raises(ValueError, match="target"):
        Client("http://127.0.0.1:1").request("GET", target)


@pytest.mark.parametrize("header", [(b"a", b"b\r\nc: d"), (b"a\n", b"b"), (b"a", b"\0"), (b"a", b"b\r")])
async def test_a_header_that_would_split(header: tuple[bytes, bytes]) -> None:
    with pytest.raises(ValueError, match="header"):
        Client("http://127.0.0.1:1").request("GET", "/", headers=[header])


@pytest.mark.parametrize("origin", ["https://a:1", "a:1", "http://a", "http://::1:80", "http://a:99999"])
def test_an_origin_that_is_none(origin: str) -> None:
    with pytest.raises(ValueError):
        Client(origin)

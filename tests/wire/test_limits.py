"""No client costs more than its bounds: sizes, counts, rates, deadlines, connections, descriptors."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest

from cortex_core.http import EventStream, Limits, Receive, Request, Scope, Send, Server, respond
from cortex_core.http.runner import raise_descriptor_limit
from tests.support.scale import scaled
from tests.support.until import until_async
from tests.support.wire import Raw, raw, request, serving


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """`/stream` writes without end; anything else answers at once, `/read` after the whole body."""
    if scope["path"] == "/stream":
        stream = EventStream(send)
        await stream.start(200)
        while True:
            await stream.write(b"x" * 5000)
    if scope["path"] == "/read":
        await Request(scope, receive).body()
    await respond(send, 200, b"{}")


async def is_healthy(server: Server) -> float:
    """Seconds that a new connection's request took."""
    started = time.monotonic()
    async with raw(server) as client:
        await client.send(request())
        assert (await client.answer()).status == 200
    return time.monotonic() - started


# --- F50: sizes and counts


@pytest.mark.parametrize(
    ("message", "status"),
    [
        (request(target="/" + "a" * 190), 200),
        (request(target="/" + "a" * 200), 414),
        (request(headers=tuple((f"h{n}", "v") for n in range(9))), 200),
        (request(headers=tuple((f"h{n}", "v") for n in range(10))), 431),
        (request(headers=(("a", "b" * 900),)), 200),
        (request(headers=(("a", "b" * 1000),)), 431),
        (request(headers=(("a" * 1000, "b"),)), 431),
        (b"GET /" + b"a" * 5000, 431),
        (b"A" * 5000, 431),
    ],
)
@pytest.mark.parametrize("size", [1, 100_000])
async def test_the_size_of_a_head(message: bytes, status: int, size: int) -> None:
    async with serving(app, target_bytes=200, header_bytes=1000, header_count=10) as server, raw(server) as client:
        for i in range(0, len(message), size):
            client.writer.write(message[i : i + size])
        answer = await client.answer()
        assert answer.status in ({status} if status != 431 else {431, 414, 400})  # whichever bound it meets first
        if status != 200:
            assert await client.closed() == b""


# --- F24: deadlines


def test_rule_H_16_idle_connections_outlive_those_of_clients() -> None:
    assert Limits().keep_alive_s >= 120


async def test_a_silent_connection_is_closed() -> None:
    async with serving(app, keep_alive_s=0.1) as server, raw(server) as client:
        assert await client.closed(1.0) == b""
        assert await is_healthy(server) < 1


async def test_a_slow_head_is_408_goal_R16() -> None:
    """Each byte in time, the whole not: dripping earns nothing."""
    async with serving(app, header_timeout_s=0.2) as server, raw(server) as client:
        started = time.monotonic()
        await client.send(b"GET / HTTP/1.1\r\n")
        while not client.reader.at_eof() and time.monotonic() - started < 2:
            client.writer.write(b"a")
            await asyncio.sleep(0.01)
            if client.reader._buffer:  # type: ignore[attr-defined]
                break
        assert (await client.answer()).status == 408
        assert time.monotonic() - started < 1


@pytest.mark.parametrize(("grace_s", "timeout_s"), [(0.2, 60.0), (60.0, 0.2)])
@pytest.mark.parametrize("path", ["/read", "/chunked"])
async def test_a_slow_body_is_408_goal_R16(path: str, grace_s: float, timeout_s: float) -> None:
    length = "Transfer-Encoding: chunked" if path == "/chunked" else "Content-Length: 1000"
    head = f"POST /read HTTP/1.1\r\nHost: a\r\n{length}\r\n\r\n".encode()
    async with serving(app, body_grace_s=grace_s, body_timeout_s=timeout_s) as server, raw(server) as client:
        await client.send(head + b"1\r\na\r\n" if path == "/chunked" else head + b"a")
        assert (await client.answer(timeout_s=2.0)).status == 408
        await client.closed()
        assert server.in_flight == 0


async def test_a_body_that_keeps_its_rate_is_read() -> None:
    async with serving(app, body_grace_s=0.05, body_bytes_per_s=1000) as server, raw(server) as client:
        await client.send(b"POST /read HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(10):
            await client.send(b"x" * 100)
            await asyncio.sleep(0.02)
        assert (await client.answer()).status == 200


async def test_the_clock_of_a_body_stands_while_the_app_does_not_read() -> None:
    go_on = asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await go_on.wait()
        await respond(send, 200, b"%d" % len(await Request(scope, receive).body()))

    async with serving(slow, body_grace_s=0.1, body_timeout_s=0.2) as server, raw(server) as client:
        client.writer.write(request("POST", "/", b"x" * 1_000_000))
        await asyncio.sleep(0.5)
        go_on.set()
        assert (await client.answer()).body == b"1000000"


# --- F23: readers that do not read


@contextmanager
def small_buffer() -> Iterator[socket.socket]:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    yield sock


@asynccontextmanager
async def stalled(server: Server) -> AsyncIterator[socket.socket]:
    """A client that asks for a stream and never reads it."""
    with small_buffer() as sock:
        host, _, port = server.addresses[0].rpartition(":")
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, (host, int(port)))
        await loop.sock_sendall(sock, request(target="/stream"))
        try:
            yield sock
        finally:
            sock.close()


async def test_stalled_readers_goal_R13() -> None:
    """They cost little, slow nobody down, and are gone at the stall limit."""
    stall_s = scaled(2, 10)
    async with serving(app, write_stall_s=stall_s) as server:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        many = scaled(100, 1000)
        readers = [stalled(server) for _ in range(many)]
        socks = [await reader.__aenter__() for reader in readers]
        await until_async(lambda: server.in_flight == many)
        await until_async(lambda: all(c.can_write is not None for c in server._connections))
        since = time.monotonic()
        assert await is_healthy(server) < 0.5
        await until_async(lambda: server.in_flight == 0, timeout_s=stall_s + 5.0)
        assert time.monotonic() - since < stall_s + 1.0
        assert server.connections == 0
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown < many * 64  # KiB, this test's own ends of them included
        for reader, _ in zip(readers, socks, strict=True):
            await reader.__aexit__(None, None, None)


async def test_a_slow_reader_is_no_stalled_one() -> None:
    async with serving(app, write_stall_s=0.5) as server, raw(server, limit=1) as client:
        await client.send(request(target="/stream"))
        since = time.monotonic()
        while time.monotonic() - since < 1.2:
            assert await client.reader.read(200_000)
            await asyncio.sleep(0.02)
        assert server.in_flight == 1


# --- F25, F26: connections and descriptors


async def test_idle_connections_goal_R14() -> None:
    raise_descriptor_limit()
    many = scaled(1000, 9000)  # both ends of each are open here
    async with serving(app) as server:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        async with asyncio.timeout(60):
            opened = [raw(server) for _ in range(many)]
            clients = [await one.__aenter__() for one in opened]
        await until_async(lambda: server.connections == many)
        assert await is_healthy(server) < 0.5
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown / many < 48  # KiB for each, this test's own end of it included
        for client in clients:
            client.abort()
        await until_async(lambda: server.connections == 0, timeout_s=1.0)
        for one in opened:
            await one.__aexit__(None, None, None)


async def test_over_the_cap_the_oldest_idle_connection_goes() -> None:
    async with serving(app, connections=3) as server:
        async with raw(server) as oldest, raw(server) as second, raw(server) as third:
            for client in (second, oldest, third):  # idle since their answers, in this order
                await client.send(request())
                await client.answer()
            assert await is_healthy(server) < 1
            assert await second.closed() == b""
            for client in (oldest, third):
                await client.send(request())
                assert (await client.answer()).status == 200


async def test_over_the_cap_busy_connections_stay_and_new_ones_wait() -> None:
    async with serving(app, connections=2, write_stall_s=30.0) as server:
        async with stalled(server), stalled(server):
            await until_async(lambda: server.in_flight == 2)
            async with raw(server) as waiting:
                await waiting.send(request())
                with pytest.raises(TimeoutError):
                    await waiting.answer(timeout_s=0.2)
                next(iter(server._connections)).abort()
                assert (await waiting.answer()).status == 200


@contextmanager
def descriptors(left: int) -> Iterator[None]:
    """So many more descriptors, and no more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as probe:
        resource.setrlimit(resource.RLIMIT_NOFILE, (probe.fileno() + left, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_descriptors_exhausted_goal_R15(caplog: pytest.LogCaptureFixture) -> None:
    """The server stays alive without a full core or a flooded log, and serves again within a second."""
    caplog.set_level(logging.WARNING)
    async with serving(app) as server:
        host, _, port = server.addresses[0].rpartition(":")
        clients = [socket.socket() for _ in range(60)]
        for client in clients:
            client.setblocking(False)
        with descriptors(left=20):
            loop = asyncio.get_running_loop()
            for client in clients:  # they connect to the kernel's queue
                await loop.sock_connect(client, (host, int(port)))
            await until_async(lambda: bool(caplog.records))
            cpu, wall = time.process_time(), time.monotonic()
            await asyncio.sleep(1.0)
            assert time.process_time() - cpu < 0.2 * (time.monotonic() - wall)
            assert len(caplog.records) <= 2
            for client in clients:
                client.close()
            recovered = time.monotonic()
            await until_async(lambda: server.connections == 0, timeout_s=2.0)
            assert await is_healthy(server) < 1.0
            assert time.monotonic() - recovered < 1.5
    assert {record.message.split(";")[0] for record in caplog.records} == {"cannot accept: Too many open files"}


async def test_reserved_descriptors_are_left_alone() -> None:
    with descriptors(left=50):
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        async with serving(app, reserved_fds=soft - 5) as server:
            clients: list[Raw] = []
            opened = [raw(server) for _ in range(8)]
            for one in opened:
                clients.append(await one.__aenter__())
                await asyncio.sleep(0.01)
            await until_async(lambda: server.connections == 5)
            for one in opened:
                await one.__aexit__(None, None, None)


# --- attacks together


async def test_slow_clients_hurt_nobody_goal_R16() -> None:
    """Slow heads, slow bodies, slow readers, all at once: a healthy request does not notice."""
    async with serving(app) as server:
        opened = [raw(server, limit=1) for _ in range(scaled(150, 900))]
        clients = [await one.__aenter__() for one in opened]
        for number, client in enumerate(clients):
            kind = number % 3
            head = b"GET / HTTP/1.1\r\nHost: a\r\nX: " if kind == 0 else request(target="/stream")
            body = b"POST /read HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nx"
            await client.send(body if kind == 1 else head)
        times = []
        for number in range(30):
            for client in clients[number::30]:
                if not client.writer.is_closing():
                    client.writer.write(b"a")
            times.append(await is_healthy(server))
        assert sorted(times)[-3] <= 0.1
        for one in opened:
            await one.__aexit__(None, None, None)

"""Crowds of clients that want nothing, or do not take what they asked for: what they cost, and whom they slow down."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from cortex_core.http import EventStream, Limits, Send
from cortex_core.http.runner import raise_descriptor_limit
from tests.chaos.stage import NEAR, Stage, question, staged
from tests.support.daemons import LOOPBACK
from tests.support.figures import Figures, milliseconds, percentile
from tests.support.process import cpu_s, rss_mb
from tests.support.scale import CHAOS, scaled
from tests.support.scripted import Asked, chunk
from tests.support.until import until_async
from tests.support.wire import request


async def endless(_: Asked, send: Send) -> None:
    """As fast as it is taken."""
    stream = EventStream(send)
    await stream.start(200)
    while True:
        await stream.write(chunk("x" * 1000))


async def health(stage: Stage) -> float:
    """Seconds of a healthy client's request over a connection of its own."""
    began = time.monotonic()
    async with stage.client() as client:
        await client.send(request(target="/health"))
        answer = await client.answer()
    assert answer.status == 200
    return time.monotonic() - began


async def healthy(stage: Stage, count: int = scaled(20, 2000)) -> list[float]:
    return [await health(stage) for _ in range(count)]


@asynccontextmanager
async def crowd(stage: Stage, many: int, say: bytes = b"", *, buffer_bytes: int = 0) -> AsyncIterator[None]:
    """So many connections that say this and read nothing."""
    loop = asyncio.get_running_loop()
    socks: list[socket.socket] = []
    try:
        for _ in range(many):
            sock = socket.socket()
            socks.append(sock)
            sock.setblocking(False)
            if buffer_bytes:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
            await loop.sock_connect(sock, (stage.gateway.host, stage.gateway.port))
            if say:
                await loop.sock_sendall(sock, say)
        yield
    finally:
        for sock in socks:
            sock.close()


async def test_goal_R13_stalled_readers(figures: Figures) -> None:
    """Each asks for an endless stream and takes nothing of it."""
    many, asked = scaled(60, 1000), scaled(20, 10_000)
    async with staged() as stage:
        stage.neuron.answers = endless
        alone = await healthy(stage, asked)
        before_mb = rss_mb(stage.gateway.pid)
        async with crowd(stage, many, question(), buffer_bytes=4096):
            since = time.monotonic()
            await until_async(lambda: stage.neuron.running == many, timeout_s=60)
            connections = stage.neuron._server._connections
            await until_async(lambda: sum(c.can_write is not None for c in connections) == many, timeout_s=60)
            grown_mb = rss_mb(stage.gateway.pid) - before_mb
            beside = await healthy(stage, asked)
            figures.add("R13", f"{many:,} stalled readers: memory", "≤ +64 MiB", f"+{grown_mb:.0f} MiB")
            slower = percentile(beside, 0.99) / percentile(alone, 0.99)
            figures.add("R13", "healthy requests beside them", "p99 ≤ 2 ×", f"{milliseconds(beside)}: {slower:.2f} ×")
            assert grown_mb <= scaled(16, 64)
            assert slower <= scaled(50, 2)
            if CHAOS:
                await until_async(lambda: stage.neuron.running == 0 and stage.is_empty, timeout_s=60)
                took_s = time.monotonic() - since
                figures.add(
                    "R13", "all reaped (stall limit 30 s)", "≤ stall + 1 s", f"{took_s:.1f} s after the last asked"
                )
                assert took_s <= Limits().write_stall_s + 1
        await until_async(lambda: stage.neuron.running == 0)


async def test_goal_R14_idle_connections(figures: Figures) -> None:
    raise_descriptor_limit()
    many = scaled(500, 10_000)
    async with staged() as stage:
        await healthy(stage)
        before_mb = rss_mb(stage.gateway.pid)
        async with crowd(stage, many):
            await until_async(lambda: stage.descriptors("socket") >= stage.sockets + many - NEAR, timeout_s=60)
            each_kib = (rss_mb(stage.gateway.pid) - before_mb) * 1024 / many
            beside = await healthy(stage)
            left = stage.descriptors("socket") - stage.sockets
        closed = time.monotonic()
        await until_async(lambda: stage.is_empty, timeout_s=10)
        back_s = time.monotonic() - closed
    figures.add("R14", f"{many:,} idle connections", "≤ 16 KiB each", f"{each_kib:.1f} KiB each")
    figures.add("R14", "healthy requests beside them", "p99 ≤ 25 ms", milliseconds(beside))
    figures.add("R14", "descriptors back after their close", "≤ 1 s", f"{back_s:.2f} s")
    assert left >= many - 1 - NEAR  # at the cap of 10,000 the oldest idle one makes room for the healthy one
    assert each_kib <= scaled(32, 16)
    assert percentile(beside, 0.99) <= scaled(2000, 25) / 1000
    assert back_s <= scaled(5, 1)


class Few:
    """A place where a process may open few descriptors."""

    address = LOOPBACK

    def __init__(self, descriptors: int) -> None:
        self.enter: Sequence[str] = ("prlimit", f"--nofile={descriptors}:{descriptors}")


async def test_goal_R15_descriptors_exhausted(figures: Figures) -> None:
    """First by idle connections, then by streams, of which each takes a descriptor upstream as well."""
    many = scaled(600, 2000)
    for what, say in (("idle connections", b""), ("streams", question())):
        async with staged(place=Few(256)) as stage:
            stage.neuron.answers = endless
            async with crowd(stage, many, say):
                await asyncio.sleep(scaled(1, 5))  # the crowd comes in, as far as it comes
                lines, cpu, began = stage.gateway.log.count("\n"), cpu_s(stage.gateway.pid), time.monotonic()
                await asyncio.sleep(scaled(1, 10))
                took_s = time.monotonic() - began
                cores = (cpu_s(stage.gateway.pid) - cpu) / took_s
                told = (stage.gateway.log.count("\n") - lines) / took_s
                assert stage.gateway.running
            closed = time.monotonic()
            await until_async(lambda stage=stage: recovered(stage), timeout_s=10)  # type: ignore[misc]
            back_s = time.monotonic() - closed
            figure = f"alive, {cores * 100:.1f} % CPU, {told:.1f} log lines/s, back after {back_s:.2f} s"
            figures.add(
                "R15", f"256 descriptors, {many:,} {what}", "alive, ≤ 20 % CPU, ≤ 1 log line/s, back ≤ 1 s", figure
            )
            assert cores <= 0.2
            assert told <= 1
            assert back_s <= scaled(5, 1)


async def recovered(stage: Stage) -> bool:
    """Whether a stream is served again."""
    async with stage.asking() as client:
        return b" 200 " in await client.until(b"\r\n")

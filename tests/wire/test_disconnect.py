"""A client that leaves cancels its handler at once, in whatever phase, and whatever bytes it left behind (R10, R11)."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from cortex_core.http import EventStream, Receive, Request, Scope, Send, Server
from tests.support.scale import scaled
from tests.support.until import until_async
from tests.support.wire import Raw, raw, request, serving


class Phases:
    """An app that stays in the phase its path names, and notes when it was cancelled."""

    def __init__(self) -> None:
        self.reached = 0
        self.cancelled: list[float] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await getattr(self, scope["path"].removeprefix("/"))(Request(scope, receive), send)
        except asyncio.CancelledError:
            self.cancelled.append(time.monotonic())
            raise

    async def unread(self, asked: Request, send: Send) -> None:
        """Queued: nothing of the body taken yet."""
        self.reached += 1
        await asyncio.Event().wait()

    async def body(self, asked: Request, send: Send) -> None:
        """Reading a body that does not come to its end."""
        self.reached += 1
        await asked.body()

    async def silent(self, asked: Request, send: Send) -> None:
        """Computing an answer, nothing sent."""
        await asked.body()
        self.reached += 1
        await asyncio.Event().wait()

    async def between(self, asked: Request, send: Send) -> None:
        """Between two events."""
        await asked.body()
        stream = EventStream(send)
        await stream.start(200)
        await stream.write(b"data: 1\n\n")
        self.reached += 1
        await asyncio.Event().wait()

    async def blocked(self, asked: Request, send: Send) -> None:
        """In a write that its reader does not take."""
        await asked.body()
        stream = EventStream(send)
        await stream.start(200)
        self.reached += 1
        while True:
            await stream.write(b"x" * 10_000)

    async def waiting(self, asked: Request, send: Send) -> None:
        """Waiting for the disconnect itself, as ASGI offers it."""
        await asked.body()
        self.reached += 1
        await asked._receive()
        await asyncio.Event().wait()


def ordinary(path: str) -> bytes:
    return request("POST", path, b"{}")


def incomplete(path: str) -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nsome" % path.encode()


def much(path: str) -> bytes:
    return request("POST", path, b"x" * 150_000)  # more than the server holds, so it no longer reads


MESSAGES: dict[str, Callable[[str], bytes]] = {
    "unread": much,
    "body": incomplete,
    "silent": ordinary,
    "between": ordinary,
    "blocked": ordinary,
    "waiting": ordinary,
}
BEHIND = {
    "nothing": b"",
    "pipelined": request("POST", "/silent", b"{}"),
    "garbage": b"\x00\xff not a request at all \r\n\r\n",
}


@asynccontextmanager
async def phases() -> AsyncIterator[tuple[Phases, Server]]:
    app = Phases()
    async with serving(app) as server:
        yield app, server


def leave(client: Raw, how: str) -> float:
    if how == "half-close":
        client.writer.write_eof()
    else:
        client.abort()
    return time.monotonic()


@pytest.mark.parametrize("how", ["close", "half-close"])
@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("phase", MESSAGES)
async def test_the_handler_is_cancelled_goal_R10_R11(phase: str, behind: str, how: str) -> None:
    async with phases() as (app, server), raw(server, limit=1) as client:
        if phase not in ("unread", "body"):
            await client.send(MESSAGES[phase](f"/{phase}") + BEHIND[behind])
        else:  # what is behind an incomplete body belongs to it
            client.writer.write(MESSAGES[phase](f"/{phase}"))
        await until_async(lambda: app.reached == 1)
        leave(client, how)
        await until_async(lambda: server.in_flight == 0, timeout_s=2.0)
        await until_async(lambda: server.connections == 0)
        assert len(app.cancelled) == 1
        assert app.reached == 1  # and the request behind it never began


async def test_how_fast_goal_R10() -> None:
    of_each = scaled(20, 1000)
    times: list[float] = []
    async with phases() as (app, server):
        for phase in ("silent", "between", "blocked", "waiting", "body"):
            for _ in range(of_each):
                reached = app.reached
                async with raw(server, limit=1) as client:
                    await client.send(MESSAGES[phase](f"/{phase}"))
                    await until_async(lambda reached=reached: app.reached > reached, poll_s=0.0005)  # type: ignore[misc]
                    left = leave(client, "close")
                    await until_async(lambda: server.in_flight == 0, poll_s=0.0005)
                    times.append(app.cancelled[-1] - left)
    assert len(app.cancelled) == 5 * of_each
    assert statistics.median(times) <= 0.005
    assert sorted(times)[int(len(times) * 0.99)] <= 0.050
    assert max(times) <= 0.250


async def test_a_finished_answer_is_the_handlers_own_to_finish_with() -> None:
    """A client that has its whole answer may leave; what the handler still writes down is written."""
    go_on = asyncio.Event()
    written: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        stream = EventStream(send)
        await stream.start(200)
        await stream.end(b"data: 1\n\n")
        await go_on.wait()
        written.append("a record")

    async with serving(app) as server:
        async with raw(server) as client:
            await client.send(request())
            assert (await client.answer()).clean
        await until_async(lambda: server.connections == 0)
        go_on.set()
        await until_async(lambda: server.in_flight == 0)
    assert written == ["a record"]


async def test_too_much_behind_a_request_closes_the_connection_rule_F21() -> None:
    async with phases() as (app, server), raw(server) as client:
        await client.send(ordinary("/silent"))
        await until_async(lambda: app.reached == 1)
        client.writer.write(b"x" * 100_000)
        await client.closed()
        await until_async(lambda: len(app.cancelled) == 1)

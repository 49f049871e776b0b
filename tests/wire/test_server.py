"""The server serves: answers, streams, bodies, connections kept and closed, errors in place of the app."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import msgspec
import pytest

from cortex_core.http import (
    BodyTooLarge,
    EventStream,
    Limits,
    Receive,
    Request,
    Scope,
    Send,
    Server,
    bind,
    respond,
    respond_json,
)
from cortex_core.http.hangup import finish
from tests.support.scale import scaled
from tests.support.until import until_async
from tests.support.wire import raw, request, serving


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Tells what it was asked."""
    asked = Request(scope, receive)
    body = await asked.body()
    await respond_json(send, 200, {"method": asked.method, "path": asked.path, "query": asked.query, "size": len(body)})


async def count_to_three(scope: Scope, receive: Receive, send: Send) -> None:
    async with EventStream(send) as stream:
        await stream.start(200)
        for number in (1, 2, 3):
            await stream.write(b"data: %d\n\n" % number)
        await stream.end()


async def test_an_answer_and_the_connection_is_kept() -> None:
    async with serving(echo) as server, raw(server) as client:
        for body in (b"", b"hello"):
            await client.send(request("POST", "/a%2Fb?x=1&y=", body))
            answer = await client.answer()
            assert answer.status == 200
            assert msgspec.json.decode(answer.body) == {
                "method": "POST",
                "path": "/a/b",
                "query": {"x": "1", "y": ""},
                "size": len(body),
            }
            assert "date" in answer.headers
        assert server.connections == 1


@pytest.mark.parametrize("size", [1, 7, 100_000])
async def test_a_body_at_any_split(size: int) -> None:
    message = request("POST", "/", b"x" * 300, headers=(("A", "b"),))
    chunked = (
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n00A\r\n0123456789\r\n0\r\n\r\n"
    )
    async with serving(echo) as server, raw(server) as client:
        for whole, expected in ((message, 300), (chunked, 15)):
            await client.send(*(whole[i : i + size] for i in range(0, len(whole), size)))
            assert msgspec.json.decode((await client.answer()).body)["size"] == expected


async def test_a_large_body_goes_through_the_bound() -> None:
    """More than the server holds: reading pauses and goes on as the app takes it."""
    async with serving(echo) as server, raw(server) as client:
        await client.send(request("POST", "/", b"x" * 3_000_000))
        assert msgspec.json.decode((await client.answer()).body)["size"] == 3_000_000


async def test_a_stream_ends_cleanly() -> None:
    async with serving(count_to_three) as server, raw(server) as client:
        await client.send(request())
        answer = await client.answer()
        assert (answer.body, answer.clean) == (b"data: 1\n\ndata: 2\n\ndata: 3\n\n", True)
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with serving(echo) as server, raw(server) as client:
        await client.send(b"".join(request("POST", f"/{n}", b"b" * n) for n in range(20)))
        for n in range(20):
            answer = msgspec.json.decode((await client.answer()).body)
            assert (answer["path"], answer["size"]) == (f"/{n}", n)


@pytest.mark.parametrize("method", ["HEAD", "GET"])
@pytest.mark.parametrize("status", [200, 204, 304])
async def test_answers_without_a_body_are_not_framed(method: str, status: int) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"not sent" if method == "HEAD" or status != 200 else b""})

    async with serving(app) as server, raw(server) as client:
        for _ in range(2):
            await client.send(request(method))
            answer = await client.answer(bodyless=method == "HEAD")
            assert (answer.status, answer.body) == (status, b"")


async def test_http_1_0_is_answered_and_closed() -> None:
    async with serving(count_to_three) as server, raw(server) as client:
        await client.send(b"GET / HTTP/1.0\r\n\r\n")
        answer = await client.answer()
        assert answer.body == b"data: 1\n\ndata: 2\n\ndata: 3\n\n"
        assert answer.headers["connection"] == "close"


async def test_connection_close_is_honoured() -> None:
    async with serving(echo) as server, raw(server) as client:
        await client.send(request(headers=(("Connection", "close"),)))
        assert (await client.answer()).headers["connection"] == "close"
        assert await client.closed() == b""


async def test_unix_socket(short_path: Path) -> None:
    address = f"unix:{short_path}/s"
    async with serving(echo, address) as server, raw(server) as client:
        assert server.addresses == [address]
        await client.send(request("POST", "/", b"abc"))
        assert msgspec.json.decode((await client.answer()).body)["size"] == 3
    assert os.listdir(short_path) == []  # noqa: PTH208  # a socket leaves no file behind


# --- errors in place of the app


@pytest.mark.filterwarnings("error")
async def test_a_bug_before_the_answer_is_a_500_and_after_it_a_truncation(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/late":
            stream = EventStream(send)
            await stream.start(200)
            await stream.write(b"data: 1\n\n")
        raise RuntimeError("a bug")

    async with serving(app) as server:
        async with raw(server) as client:
            await client.send(request())
            answer = await client.answer()
            assert answer.status == 500
            assert msgspec.json.decode(answer.body)["error"]["type"] == "server_error"
        async with raw(server) as client:
            await client.send(request(target="/late"))
            answer = await client.answer()
            assert (answer.status, answer.body, answer.clean) == (200, b"data: 1\n\n", False)
    assert [record.message for record in caplog.records] == [
        "unhandled RuntimeError in GET /",
        "unhandled RuntimeError in GET /late",
    ]


async def test_an_answer_left_unfinished_is_a_truncation() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async with EventStream(send) as stream:
            await stream.start(200)
            await stream.write(b"data: 1\n\n")
            if scope["path"] == "/told":
                await stream.write(b"data: hal")
                await stream.abort(b"data: error\n\n")

    async with serving(app) as server:
        for path, body in (("/", b"data: 1\n\n"), ("/told", b"data: 1\n\ndata: hal\n\ndata: error\n\n")):
            async with raw(server) as client:
                await client.send(request(target=path))
                answer = await client.answer()
                assert (answer.body, answer.clean) == (body, False)


async def test_framing_is_the_servers_business_in_a_whole_answer_too() -> None:
    """What an app hands on of another server's headers must not give the answer two lengths."""
    theirs = [(b"transfer-encoding", b"chunked"), (b"connection", b"close"), (b"content-length", b"99"), (b"x-a", b"b")]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, 200, b"{}", theirs)

    async with serving(app) as server, raw(server) as client:
        for _ in range(2):
            await client.send(request("GET", "/"))
            head = await client.reader.readuntil(b"\r\n\r\n")
            assert head.count(b"content-length:") == head.count(b"content-length: 2\r\n") == 1
            assert b"transfer-encoding" not in head
            assert b"connection" not in head
            assert b"x-a: b\r\n" in head
            assert await client.reader.readexactly(2) == b"{}"


@pytest.mark.parametrize("length", [b"3", b"9"])
async def test_a_wrong_content_length_never_passes_for_a_whole_answer(length: bytes) -> None:
    errors: list[Exception] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        await send({"type": "http.response.body", "body": b"abcdef"})

    async with serving(app, on_error=lambda _, error: errors.append(error)) as server, raw(server) as client:
        await client.send(request())
        assert (await client.answer()).status == 500
        assert isinstance(errors[0], ValueError)


async def test_a_header_cannot_be_split() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, 200, b"{}", [(b"x-model", b"a\r\nset-cookie: b")])

    async with serving(app, on_error=lambda *_: None) as server, raw(server) as client:
        await client.send(request())
        answer = await client.answer()
        assert answer.status == 500
        assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("framing", ["length", "chunked", "handler"])
async def test_a_body_over_the_limit_is_413_and_closed_goal_R62(framing: str) -> None:
    taken = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal taken
        taken = len(await Request(scope, receive).body(limit_bytes=1000 if framing == "handler" else None))

    def errors(status: int, message: str, scope: Scope | None) -> tuple[list[tuple[bytes, bytes]], bytes]:
        assert scope is not None
        return [(b"content-type", b"text/plain")], b"%d %s" % (status, scope["path"].encode())

    async with serving(app, body_bytes=10_000, errors=errors) as server, raw(server) as client:
        if framing == "chunked":
            head = b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            await client.send(head, *[b"1000\r\n" + b"x" * 4096 + b"\r\n"] * 8)
        else:
            await client.send(request("POST", "/x", b"x" * 9000 * (1 if framing == "handler" else 10)))
        answer = await client.answer()
        assert (answer.status, answer.body) == (413, b"413 /x")
        assert answer.headers["connection"] == "close"
        assert await client.closed() == b""
        assert taken == 0


async def test_a_handler_may_refuse_by_raising() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise BodyTooLarge(7)

    async with serving(app) as server, raw(server) as client:
        await client.send(request())
        assert (await client.answer()).status == 413


# --- 100 Continue


async def test_100_continue_is_sent_when_the_app_asks_for_the_body() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/no":
            await respond(send, 403, b"{}")
        else:
            await echo(scope, receive, send)

    head = b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
    async with serving(app) as server:
        async with raw(server) as client:
            await client.send(head % b"/")
            assert (await client.answer()).status == 100
            await client.send(b"hello")
            assert (await client.answer()).status == 200
        async with raw(server) as client:
            await client.send(head % b"/no")
            answer = await client.answer()
            assert (answer.status, answer.headers["connection"]) == (403, "close")
        async with raw(server) as client:
            await client.send((head % b"/") + b"hello")
            assert (await client.answer()).status in (100, 200)


# --- draining


async def test_a_drain_lets_requests_finish_and_refuses_new_connections_goal_R40() -> None:
    go_on = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async with EventStream(send) as stream:
            await stream.start(200)
            await stream.write(b"data: 1\n\n")
            await go_on.wait()
            await stream.end(b"data: 2\n\n")

    async with serving(app) as server, raw(server) as idle, raw(server) as client:
        address = server.addresses[0]
        await client.send(request())
        await client.until(b"data: 1\n\n")
        async with asyncio.TaskGroup() as group:
            group.create_task(server.drain(5.0))
            assert await idle.closed() == b""
            with pytest.raises(ConnectionRefusedError):
                async with raw(address):
                    pass
            assert server.in_flight == 1
            go_on.set()
            assert (await client.closed()).endswith(b"data: 2\n\n\r\n0\r\n\r\n")
        assert server.in_flight == 0


async def test_a_drain_cuts_no_stream_that_ends_in_its_window_goal_R40() -> None:
    many = scaled(50, 200)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async with EventStream(send) as stream:
            await stream.start(200)
            for _ in range(20):
                await stream.write(b"data: 1\n\n")
                await asyncio.sleep(0.02)
            await stream.end()

    async with serving(app) as server:
        opened = [raw(server) for _ in range(many)]
        clients = [await one.__aenter__() for one in opened]
        for client in clients:
            await client.send(request())
        await until_async(lambda: server.in_flight == many)
        async with asyncio.TaskGroup() as group:
            answers = [group.create_task(client.answer(timeout_s=10.0)) for client in clients]
            await server.drain(10.0)
        assert all(answer.result().clean and len(answer.result().body) == 180 for answer in answers)
        for one in opened:
            await one.__aexit__(None, None, None)


async def test_a_drain_cuts_at_its_deadline_with_last_words_goal_R40() -> None:
    cancelled = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal cancelled
        stream = EventStream(send, last_words=lambda: b"event: error\ndata: {}\n\n")
        try:
            if scope["path"] == "/stream":
                await stream.start(200)
                await stream.write(b"data: half an ev")
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled += 1
            raise

    async with serving(app) as server, raw(server) as stream, raw(server) as waiting:
        await stream.send(request(target="/stream"))
        await stream.until(b"half an ev\r\n")
        await waiting.send(request())
        await until_async(lambda: server.in_flight == 2)
        started = asyncio.get_running_loop().time()
        await server.drain(0.2)
        took = asyncio.get_running_loop().time() - started
        assert 0.19 <= took < 1.2
        assert (await stream.closed()).endswith(b"\n\nevent: error\ndata: {}\n\n\r\n")
        assert (await waiting.answer()).status == 503
        assert cancelled == 2
        assert server.connections == 0


async def test_a_drain_serves_a_request_that_is_on_its_way() -> None:
    """On an idle connection, and on one that has just been opened: closing them at once would lose it."""
    async with serving(echo) as server, raw(server) as kept, raw(server) as fresh:
        await kept.send(request())
        assert (await kept.answer()).status == 200
        async with asyncio.TaskGroup() as group:
            group.create_task(server.drain(5.0))
            await until_async(lambda: server.draining)
            for client in (kept, fresh):
                await client.send(request())
                answer = await client.answer()
                assert (answer.status, answer.headers["connection"]) == (200, "close")


def test_a_drain_tells_idle_connections_of_their_end_at_once() -> None:
    """Not some turns of the loop after it has looked whether a request is there: what comes between would be lost."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        finish(ours.fileno())
        theirs.setblocking(False)
        assert theirs.recv(1) == b""
        theirs.send(b"x")  # and that side may still speak
        assert ours.recv(1) == b"x"


async def test_a_drain_lets_the_last_answer_of_an_idle_connection_leave() -> None:
    """The app is done with it, and its reader is slow."""
    size = 2**22  # more than the kernel keeps
    answered = asyncio.Event()

    async def large(_: Scope, __: Receive, send: Send) -> None:
        await respond(send, 200, b"x" * size)
        answered.set()

    async with serving(large) as server, raw(server) as slow:
        await slow.send(request())
        await answered.wait()
        async with asyncio.TaskGroup() as group:
            group.create_task(server.drain(5.0, idle_grace_s=0.0))
            await until_async(lambda: not server.has_idle)
            answer = await slow.answer()
        assert len(answer.body) == size


async def test_leaving_the_server_ends_what_it_owns() -> None:
    ended = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    listener = bind("127.0.0.1:0")
    async with Server(app, listeners=[listener], limits=Limits()) as server, raw(server) as client:
        await client.send(request())
        await until_async(lambda: server.in_flight == 1)
    assert ended.is_set()
    assert server.connections == 0
    assert listener.fileno() == -1

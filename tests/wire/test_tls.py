"""TLS: 1.2 and later, HTTP/1.1 only, and nobody who stalls in it holds anything for long (F24, R40, R64)."""

from __future__ import annotations

import asyncio
import ssl
import time
from pathlib import Path

import pytest

from cortex_core.http import EventStream, Receive, Request, Scope, Send, respond, tls_context
from tests.support.until import until_async
from tests.support.wire import raw, request, serving

FILES = Path(__file__).parents[1] / "support" / "tls"  # made for these tests, for 127.0.0.1 and localhost


def server_context() -> ssl.SSLContext:
    return tls_context(FILES / "certificate.pem", FILES / "key.pem")


def client_context() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(FILES / "certificate.pem"))


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """`/stream` writes without end; anything else answers with the scheme and the body's size."""
    body = await Request(scope, receive).body()
    if scope["path"] == "/stream":
        stream = EventStream(send, last_words=lambda: b"event: error\n\n")
        await stream.start(200)
        while True:
            await stream.write(b"x" * 5000)
    await respond(send, 200, b"%b %d" % (scope["scheme"].encode(), len(body)))


async def test_requests_over_tls() -> None:
    async with serving(app, ssl_context=server_context()) as server, raw(server, ssl=client_context()) as client:
        for size in (0, 10, 1_000_000):
            await client.send(request("POST", "/", b"x" * size))
            assert (await client.answer()).body == b"https %d" % size


@pytest.mark.parametrize("offered", [["h2", "http/1.1"], ["h2"], []])
async def test_http_2_is_never_negotiated_goal_R64(offered: list[str]) -> None:
    context = client_context()
    if offered:
        context.set_alpn_protocols(offered)
    async with serving(app, ssl_context=server_context()) as server, raw(server, ssl=context) as client:
        negotiated = client.writer.get_extra_info("ssl_object").selected_alpn_protocol()
        assert negotiated == ("http/1.1" if "http/1.1" in offered else None)
        await client.send(request())
        assert (await client.answer()).status == 200


async def test_old_versions_are_refused() -> None:
    context = client_context()
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    async with serving(app, ssl_context=server_context()) as server:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            async with raw(server, ssl=context):
                pass
        await until_async(lambda: server.connections == 0)


async def test_a_stalled_handshake_is_bounded_rule_F24() -> None:
    async with serving(app, ssl_context=server_context(), tls_handshake_s=0.2) as server, raw(server) as client:
        await client.send(b"\x16\x03\x01")
        await until_async(lambda: server.connections == 1)
        await client.closed(2.0)
        await until_async(lambda: server.connections == 0)


async def test_plain_http_to_a_tls_port_is_closed() -> None:
    async with serving(app, ssl_context=server_context()) as server, raw(server) as client:
        await client.send(request())
        await client.closed(2.0)
        await until_async(lambda: server.connections == 0)


async def test_over_the_cap_the_oldest_handshake_goes() -> None:
    async with serving(app, ssl_context=server_context(), connections=2) as server:
        async with raw(server) as first, raw(server) as second:
            await until_async(lambda: server.connections == 2)
            async with raw(server, ssl=client_context()) as client:
                await client.send(request())
                assert (await client.answer()).status == 200
            await first.closed(2.0)
            assert not second.reader.at_eof()


async def test_a_client_that_leaves_goal_R10() -> None:
    async with serving(app, ssl_context=server_context()) as server:
        async with raw(server, ssl=client_context(), limit=1) as client:
            await client.send(request(target="/stream"))
            await until_async(lambda: server.in_flight == 1)
        await until_async(lambda: server.in_flight == 0 and server.connections == 0, timeout_s=1.0)


async def test_stalled_readers_do_not_hold_up_a_drain_goal_R40() -> None:
    """Stock hypercorn waits 33 s for them."""
    async with serving(app, ssl_context=server_context()) as server:
        opened = [raw(server, ssl=client_context(), limit=1) for _ in range(5)]
        for one in opened:
            await (await one.__aenter__()).send(request(target="/stream"))
        await until_async(lambda: sum(c.can_write is not None for c in server._connections) == 5)
        started = time.monotonic()
        await server.drain(0.3)
        assert 0.29 <= time.monotonic() - started < 1.3
        assert (server.connections, server.in_flight) == (0, 0)
        for one in opened:
            await one.__aexit__(None, None, None)


async def test_a_stalled_reader_is_cut_at_its_limit_rule_F23() -> None:
    async with serving(app, ssl_context=server_context(), write_stall_s=0.3) as server:
        async with raw(server, ssl=client_context(), limit=1) as client:
            await client.send(request(target="/stream"))
            await until_async(lambda: server.in_flight == 1)
            await until_async(lambda: server.in_flight == 0 and server.connections == 0, timeout_s=2.0)


@pytest.mark.parametrize(
    ("certificate", "key", "problem"),
    [
        ("none.pem", "key.pem", "none.pem: No such file"),
        ("certificate.pem", "none.pem", "none.pem: No such file"),
        ("key.pem", "key.pem", "certificate .*key.pem with key"),
        ("certificate.pem", "encrypted.pem", "the key is encrypted"),
    ],
)
def test_files_that_do_not_fit_are_named(certificate: str, key: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        tls_context(FILES / certificate, FILES / key)


async def test_the_address_of_the_client_is_known() -> None:
    seen: list[object] = []

    async def note(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((Request(scope, receive).client, scope["server"][1]))
        await respond(send, 200, b"")

    async with serving(note, ssl_context=server_context()) as server, raw(server, ssl=client_context()) as client:
        await client.send(request())
        await client.answer()
        assert seen == [("127.0.0.1", int(server.addresses[0].rpartition(":")[2]))]
        await asyncio.sleep(0)

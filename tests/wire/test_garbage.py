"""What a request makes dies with it, by counting: the cyclic collector, whose work stalls others, finds nothing."""

from __future__ import annotations

import gc

import pytest

from cortex_core.http import Client, EventStream, Receive, Request, Scope, Send, respond
from tests.support.wire import serving

REQUESTS = 50


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    await Request(scope, receive).body()
    if scope["path"] == "/stream":
        async with EventStream(send, lambda: b"data: cut\n\n") as stream:
            await stream.start(200)
            await stream.write(b"data: 1\n\n")
            await stream.end(b"data: [DONE]\n\n")
    else:
        await respond(send, 200, b"{}")


@pytest.mark.parametrize(("path", "body"), [("/whole", b"{}"), ("/stream", b"data: 1\n\ndata: [DONE]\n\n")])
async def test_a_request_leaves_nothing_to_the_collector(path: str, body: bytes) -> None:
    async with serving(app) as server:
        client = Client(f"http://{server.addresses[0]}")

        async def ask(times: int) -> None:
            for _ in range(times):
                async with client.request("POST", path, body=b"{}") as response:
                    assert await response.read(100) == body

        await ask(5)
        gc.collect()
        gc.disable()
        try:
            await ask(REQUESTS)
            found = gc.collect()
        finally:
            gc.enable()
        await client.close()
    assert found < REQUESTS

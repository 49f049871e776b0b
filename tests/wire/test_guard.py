"""Who may ask (F63, R71): names that are ours, pages that are ours, and every program that is no browser."""

from __future__ import annotations

import itertools

import pytest

from cortex_core.http import HostGuard, Receive, Request, Scope, Send, host_name, own_names, respond
from tests.support.wire import raw, request, serving


async def ok(scope: Scope, receive: Receive, send: Send) -> None:
    await Request(scope, receive).body()
    await respond(send, 200, b"{}")


async def status(guard: HostGuard, method: str = "GET", **headers: str) -> int:
    """What a request with these headers (underscores for hyphens) comes to."""
    scope: Scope = {
        "type": "http",
        "method": method,
        "scheme": "http",
        "path": "/",
        "raw_path": b"/",
        "client": ("10.0.0.9", 1),
        "headers": [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()],
    }
    sent: list[int] = []

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: object) -> None:
        assert isinstance(message, dict)
        sent.append(message.get("status", 0))

    await guard(scope, receive, send)
    return sent[0]


LOOPBACK = ["localhost", "LOCALHOST", "localhost.", "app.localhost", "127.0.0.1", "127.9.9.9", "[::1]"]
ADDRESSES = ["10.0.0.1", "192.168.1.7", "[fe80::1]", "0.0.0.0"]
FOREIGN = ["evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "1", "0x7f000001", "", "notlocalhost"]


@pytest.mark.parametrize("port", ["", ":31313"])
async def test_hosts_goal_R71(port: str) -> None:
    on_loopback = HostGuard(ok, hosts=[])
    beyond = HostGuard(ok, hosts=["beast", "beast.internal"], any_address=True)
    anywhere = HostGuard(ok, hosts=["*"])
    for host in LOOPBACK + ADDRESSES + ["beast", "Beast.Internal"] + FOREIGN:
        known = host in LOOPBACK
        assert (await status(on_loopback, host=host + port) == 200) is known, host
        known = known or host in ADDRESSES or host.lower().startswith("beast")
        assert (await status(beyond, host=host + port) == 200) is known, host
        assert await status(anywhere, host=host + port) == 200


ORIGINS = {
    "http://localhost:31313": True,
    "HTTP://LOCALHOST:31313": True,
    "http://localhost": False,
    "http://localhost:3000": False,
    "https://localhost:31313": False,
    "http://evil.example": False,
    "http://localhost:31313.evil.example": False,
    "null": False,
    "": False,
    "app://zed": True,
    "file://": False,
}


@pytest.mark.parametrize(("origin", "ours"), ORIGINS.items())
async def test_origins_goal_R71(origin: str, ours: bool) -> None:
    """A page of ours may send JSON, and nothing else that changes anything; any other page nothing at all."""
    guard = HostGuard(ok, hosts=[], origins=["app://zed"])
    kinds = [
        "application/json",
        "application/json; charset=utf-8",
        "text/plain",
        "application/x-www-form-urlencoded",
        "",
    ]
    for method, kind in itertools.product(["GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE", "PATCH"], kinds):
        allowed = ours and (method in ("GET", "HEAD", "OPTIONS") or kind.startswith("application/json"))
        got = await status(guard, method, host="localhost:31313", origin=origin, content_type=kind)
        assert (got == 200) is allowed, (method, kind)


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("kind", ["application/json", "text/plain", ""])
async def test_programs_send_no_origin_and_may_do_as_they_like(method: str, kind: str) -> None:
    assert await status(HostGuard(ok, hosts=[]), method, host="localhost", content_type=kind) == 200


async def test_a_cross_site_request_without_an_origin_changes_nothing() -> None:
    guard = HostGuard(ok, hosts=[])
    assert await status(guard, "POST", host="localhost", sec_fetch_site="cross-site") == 403
    assert await status(guard, "GET", host="localhost", sec_fetch_site="cross-site") == 200
    assert await status(guard, "POST", host="localhost", sec_fetch_site="same-origin") == 200


async def test_a_refusal_over_the_wire_grants_nothing_to_other_origins() -> None:
    async with serving(HostGuard(ok, hosts=[])) as server, raw(server) as client:
        await client.send(request("POST", "/", b"{}", headers=(("Origin", "http://evil.example"),)))
        answer = await client.answer()
        assert answer.status == 403
        assert b"'test' is not served here" in answer.body
        assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_a_unix_socket_is_no_browsers(short_path: object) -> None:
    async with serving(HostGuard(ok, hosts=[]), f"unix:{short_path}/s") as server, raw(server) as client:
        await client.send(request())
        assert (await client.answer()).status == 200


@pytest.mark.parametrize(
    ("header", "name"),
    [("A.B", "a.b"), ("a.b:1", "a.b"), ("[::1]:1", "::1"), ("[::1]", "::1"), ("a.", "a"), ("a.:1", "a"), ("", "")],
)
def test_the_name_in_a_host_header(header: str, name: str) -> None:
    assert host_name(header) == name


@pytest.mark.parametrize(
    ("listen", "any_address"),
    [("127.0.0.1:1", False), ("[::1]:1", False), ("localhost:1", False), ("0.0.0.0:1", True), ("beast:1", True)],
)
def test_own_names(listen: str, any_address: bool) -> None:
    names, addresses = own_names(listen)
    assert addresses is any_address
    assert bool(names) is any_address

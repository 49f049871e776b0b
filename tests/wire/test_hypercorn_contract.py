"""What `exchange.py` relies on inside hypercorn. When this fails, hypercorn has moved: read what, then move the pin."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import pytest
from hypercorn.config import Config
from hypercorn.protocol import events
from hypercorn.protocol.http_stream import ASGIHTTPState, HTTPStream
from hypercorn.typing import ConnectionState
from hypercorn.utils import UnexpectedMessageError

from cortex_core.http import Receive, Scope, Send, respond
from cortex_core.http.exchange import Exchange
from cortex_core.http.head import Head
from tests.support.wire import raw, request, serving

TARGET = "/a%2Fb/%C3%A9?c=d%20"


class Group:
    """Stands where hypercorn has its task group."""

    def __init__(self) -> None:
        self.scope: dict[str, Any] = {}

    async def spawn_app(self, app: Any, config: Any, scope: Any, send: Any) -> Any:
        self.scope = scope


def test_the_version() -> None:
    assert importlib.metadata.version("hypercorn").startswith("0.18.")


async def test_our_scope_is_hypercorns() -> None:
    scopes: list[dict[str, Any]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append({key: value for key, value in scope.items() if not key.startswith("cortex.")})
        await respond(send, 200, b"{}")

    async with serving(app) as server, raw(server) as client:
        await client.send(request("POST", TARGET))
        await client.answer()
    ours = scopes[0]
    group, config = Group(), Config()
    config.accesslog = config.errorlog = None
    ends = (ours["client"], ours["server"])
    arguments: Any = (object(), config, None, group, False, *ends, None, 1)
    event = events.Request(1, ours["headers"], "1.1", "POST", TARGET.encode(), ConnectionState({}))
    with pytest.raises(StopIteration):  # nothing in it waits for a loop
        HTTPStream(*arguments).handle(event).send(None)
    assert ours == group.scope


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        (ASGIHTTPState.REQUEST, "http.response.body"),
        (ASGIHTTPState.REQUEST, "http.response.trailers"),
        (ASGIHTTPState.REQUEST, "http.response.push"),
        (ASGIHTTPState.REQUEST, "http.response.early_hint"),
        (ASGIHTTPState.RESPONSE, "http.response.start"),
        (ASGIHTTPState.RESPONSE, "http.response.push"),
        (ASGIHTTPState.RESPONSE, "http.response.early_hint"),
        (ASGIHTTPState.CLOSED, "http.response.start"),
        (ASGIHTTPState.CLOSED, "http.response.body"),
        (ASGIHTTPState.CLOSED, "websocket.send"),
    ],
)
def test_what_asgi_or_http_1_1_forbids_is_refused(state: ASGIHTTPState, kind: str) -> None:
    head = Head(b"GET", b"/", "1.1", (), True, 0, False, {})
    connection: Any = None  # never asked
    refusing = Exchange(connection, head)
    refusing.state = state
    scope: Any = {"http_version": "1.1", "headers": []}
    refusing.scope = scope
    with pytest.raises(UnexpectedMessageError):
        refusing.app_send({"type": kind, "status": 200, "headers": [], "links": [], "path": "/"}).send(None)

"""What `exchange.py` relies on inside hypercorn. When this fails, hypercorn has moved: read what, then move the pin."""

from __future__ import annotations

import importlib.metadata
import inspect
from typing import Any

import pytest
from hypercorn.config import Config
from hypercorn.protocol import events
from hypercorn.protocol.http_stream import ASGIHTTPState, HTTPStream
from hypercorn.typing import ConnectionState
from hypercorn.utils import UnexpectedMessageError


class Group:
    def __init__(self) -> None:
        self.scope: dict[str, Any] = {}
        self.received: list[Any] = []

    async def spawn_app(self, app: Any, config: Any, scope: Any, send: Any) -> Any:
        self.scope = scope
        self.send = send
        return self.put

    async def put(self, message: Any) -> None:
        self.received.append(message)


def step(coroutine: Any) -> None:
    """Everything here must run without a loop: that is what lets the protocol step it from a callback."""
    with pytest.raises(StopIteration):
        coroutine.send(None)


class Driven:
    """A stream as the exchange drives it."""

    def __init__(self) -> None:
        self.group = Group()
        self.sent: list[events.Event] = []
        config = Config()
        config.accesslog = config.errorlog = None
        ends = (("10.0.0.1", 5), ("10.0.0.2", 6))
        arguments: Any = (object(), config, None, self.group, True, *ends, self.collect, 1)
        self.stream = HTTPStream(*arguments)
        headers = [(b"host", b"a")]
        step(self.stream.handle(events.Request(1, headers, "1.1", "POST", b"/a%2Fb?c=d", ConnectionState({}))))

    async def collect(self, event: events.Event) -> None:
        self.sent.append(event)


def test_the_version() -> None:
    assert importlib.metadata.version("hypercorn").startswith("0.18.")


def test_its_constructor() -> None:
    assert list(inspect.signature(HTTPStream).parameters) == [
        "app", "config", "context", "task_group", "ssl", "client", "server", "send", "stream_id",
    ]  # fmt: skip


def test_the_scope() -> None:
    scope = Driven().group.scope
    assert {**scope, "asgi": None} == {
        "type": "http",
        "http_version": "1.1",
        "asgi": None,
        "method": "POST",
        "scheme": "https",
        "path": "/a/b",
        "raw_path": b"/a%2Fb",
        "query_string": b"c=d",
        "root_path": "",
        "headers": [(b"host", b"a")],
        "client": ("10.0.0.1", 5),
        "server": ("10.0.0.2", 6),
        "state": {},
        "extensions": {},
    }


def test_an_answer_begins() -> None:
    driven = Driven()
    states = [driven.stream.state]
    message: Any = {"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")], "cortex.cut": 1}
    step(driven.group.send(message))
    states.append(driven.stream.state)
    assert states == [ASGIHTTPState.REQUEST, ASGIHTTPState.RESPONSE]
    assert driven.sent == [events.Response(1, [(b"a", b"b")], 200)]
    assert driven.stream.response is message


def test_what_asgi_forbids_is_refused() -> None:
    driven = Driven()
    with pytest.raises(UnexpectedMessageError):
        driven.group.send({"type": "http.response.body", "body": b""}).send(None)
    step(driven.group.send({"type": "http.response.start", "status": 200}))
    with pytest.raises(UnexpectedMessageError):
        driven.group.send({"type": "http.response.start", "status": 200}).send(None)
    driven.stream.state = ASGIHTTPState.CLOSED
    with pytest.raises(UnexpectedMessageError):
        driven.group.send({"type": "http.response.body", "body": b""}).send(None)


def test_a_disconnect_is_one_message() -> None:
    driven = Driven()
    step(driven.stream.handle(events.StreamClosed(1)))
    step(driven.stream.handle(events.StreamClosed(1)))
    assert driven.group.received == [{"type": "http.disconnect"}]

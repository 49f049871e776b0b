"""Nothing that a client sends ends in a 500, and every answer is one that its SDK can read."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex_core.http import ASGIApp, Message, Scope
from tests.support.gateway import without_neurons

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS")
PATHS = ("/", "/health", "/v1/models", "/v1/models/tiny", "/v1/chat/completions", "/v1/completions", "/cortex/v1/fleet")


@pytest.fixture(scope="module")
def app() -> Iterator[ASGIApp]:
    with without_neurons() as app:
        yield app


def scope_of(method: str, path: str, body: bytes, content_type: str = "application/json") -> Scope:
    return {
        "type": "http",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [
            (b"host", b"localhost"),
            (b"content-length", b"%d" % len(body)),
            (b"content-type", content_type.encode()),
        ],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 31313),
    }


def ask(app: ASGIApp, method: str, path: str, body: bytes) -> tuple[int, dict[bytes, bytes], bytes]:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    async def asked() -> None:
        await app(scope_of(method, path, body), receive, send)

    asyncio.run(asked())
    head = sent[0]
    return head["status"], dict(head["headers"]), b"".join(message.get("body", b"") for message in sent)


characters = st.characters(min_codepoint=32, exclude_categories=["Cs"])
paths = st.sampled_from(PATHS) | st.text(characters, max_size=30).map(lambda text: "/" + text)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
requests = st.fixed_dictionaries(
    {},
    optional={
        key: st.just("tiny") | values
        for key in ("model", "messages", "prompt", "stream", "stream_options", "max_tokens", "prompt_cache_key")
    },
).map(msgspec.json.encode)


@given(st.sampled_from(METHODS), paths, requests | st.binary(max_size=50))
def test_goal_R60_no_request_ends_in_a_500(app: ASGIApp, method: str, path: str, body: bytes) -> None:
    status, headers, answer = ask(app, method, path, body)
    assert status in {200, 400, 404, 405, 503}
    assert headers[b"x-request-id"].startswith(b"req_")
    if status != 200 and method != "HEAD" and path != "/health":
        error = msgspec.json.decode(answer)["error"]
        assert set(error) >= {"message", "type", "param", "code"}
        assert error["message"]
        assert (b"retry-after" in headers) is (status == 503)

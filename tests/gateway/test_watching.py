"""`GET /models/sse`: editors that know llama.cpp follow the list of models instead of asking for it."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from cortex_core.fleet import State
from cortex_gateway.api import watching
from cortex_gateway.api.watching import changes
from tests.support.gateway import TINY, Running
from tests.support.scripted import ScriptedNeuron


def test_what_is_said_when_a_status_changes() -> None:
    before = {"a": "unloaded", "b": "loaded"}
    assert list(changes(before, before)) == []
    assert list(changes(before, {"a": "loading", "b": "unloaded"})) == [
        {"model": "a", "event": "model_status", "data": {"status": "loading"}},
        {"model": "b", "event": "status_change", "data": {"status": "unloaded"}},
    ]
    assert list(changes(before, {"a": "unloaded"})) == [{"model": "*", "event": "models_reload"}]


@pytest.mark.parametrize("path", ["/models/sse", "/v1/models/sse"])
async def test_a_load_is_told(
    beast: ScriptedNeuron, served: Running, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "LOOK_S", 0.02)
    async with asyncio.timeout(10), served.client.request("GET", path) as response:
        assert response.status == 200
        assert dict(response.headers)[b"content-type"].startswith(b"text/event-stream")
        assert await response.read_some() == b": keep-alive\n\n"
        beast.ready("big", state=State.LOADING)
        said = await response.read_some()
        assert msgspec.json.decode(said.removeprefix(b"data: ")) == {
            "model": "big", "event": "model_status", "data": {"status": "loading"},
        }  # fmt: skip


async def test_watchers_are_bounded_and_only_read(served: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "WATCHERS_MOST", 0)
    got = await served.ask("GET", "/models/sse")
    assert (got.status, "retry-after" in got.headers) == (503, True)
    got = await served.ask("POST", "/models/sse", {"model": TINY.id})
    assert (got.status, got.headers["allow"]) == (405, "GET")

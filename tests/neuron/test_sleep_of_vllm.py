"""What vLLM is told when a replica sleeps and wakes, and in which order. That a card obeys is for tests/gpu to show."""

from __future__ import annotations

from typing import Any

import pytest

from neuron.engines.vllm.sleep import obey


class Told:
    """Notes what it is told, in vLLM's own names."""

    def __init__(self) -> None:
        self.words: list[Any] = []

    async def sleep(self, level: int) -> None:
        self.words.append(("sleep", level))

    async def wake_up(self, tags: list[str] | None = None) -> None:
        self.words.append(("wake_up", tags))

    async def collective_rpc(self, method: str) -> None:
        self.words.append(method)


async def post(engine: Told, path: str, level: int, *, can_sleep: bool = True, method: str = "POST") -> Any:
    """The answer's status; None: vLLM's own application was asked."""
    sent: list[dict[str, Any]] = []

    async def app(*_: object) -> None:
        return None

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "query_string": b"level=%d" % level, "headers": []}
    await obey(app, engine, can_sleep)(scope, None, send)
    return sent[0]["status"] if sent else None


@pytest.mark.parametrize(
    ("level", "woken"),
    [(1, [("wake_up", None)]), (2, [("wake_up", ["weights"]), "reload_weights", ("wake_up", ["kv_cache"])])],
)
async def test_a_level_sleeps_and_wakes_in_its_own_way(level: int, woken: list[Any]) -> None:
    engine = Told()
    assert await post(engine, "/neuron/sleep", level) == 204
    assert engine.words == [("sleep", level)]
    assert await post(engine, "/neuron/wake", level) == 204
    assert engine.words[1:] == woken


@pytest.mark.parametrize(
    ("path", "options"),
    [("/v1/chat/completions", {}), ("/neuron/sleep", {"can_sleep": False}), ("/neuron/sleep", {"method": "GET"})],
)
async def test_all_else_is_vllms_own(path: str, options: dict[str, Any]) -> None:
    engine = Told()
    assert await post(engine, path, 1, **options) is None
    assert engine.words == []

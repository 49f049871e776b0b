"""Large bodies are read by another process, and come to the same as if they were not."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from cortex_core.errors import CortexError, Dialect
from cortex_gateway.policy.body import Target, read
from cortex_gateway.relay import large
from cortex_gateway.relay.large import LARGE_BYTES, Large
from tests.support.gateway import TINY, gateway
from tests.support.process import alive
from tests.support.scripted import ScriptedNeuron
from tests.support.until import until_async

LONG = "x" * LARGE_BYTES
BODIES: dict[Dialect, dict[str, Any]] = {
    Dialect.OPENAI_CHAT: {"messages": [{"role": "user", "content": LONG}], "stream": True},
    Dialect.OPENAI_COMPLETIONS: {"prompt": LONG},
    Dialect.ANTHROPIC_MESSAGES: {"max_tokens": 5, "messages": [{"role": "user", "content": LONG}], "stream": True},
    Dialect.OPENAI_RESPONSES: {"input": LONG, "instructions": "brief"},
    Dialect.OPENAI_EMBEDDINGS: {"input": LONG},
}


def known(asked: str) -> Target:
    if asked != "mine":
        raise CortexError("model_not_found", f"no {asked} here", param="model")
    return Target("tiny", defaults={"temperature": 0.5})


@pytest.mark.parametrize("dialect", BODIES)
async def test_it_comes_to_the_same(dialect: Dialect) -> None:
    body = json.dumps({"model": "mine", **BODIES[dialect]}).encode()
    with Large() as reader:
        for _ in range(2):
            assert await reader.read(body, dialect, known, counting=False) == read(body, dialect, known)


@pytest.mark.parametrize("body", [b'{"model":"other"}', b'{"model":"mine"}', b'{"model":"mine","messages":[', b"\xff"])
async def test_so_do_refusals_and_the_process_stays(body: bytes) -> None:
    with Large() as reader:
        said: list[tuple[str, str, str | None]] = []
        pids: set[int] = set()
        for _ in range(2):
            with pytest.raises(CortexError) as refused:
                await reader.read(body, Dialect.OPENAI_CHAT, known, counting=False)
            said.append((refused.value.kind, str(refused.value), refused.value.param))
            assert reader._process is not None
            pids.add(reader._process.pid)
        with pytest.raises(CortexError) as refused:
            read(body, Dialect.OPENAI_CHAT, known)
        assert said == [(refused.value.kind, str(refused.value), refused.value.param)] * 2
    [pid] = pids
    assert not alive(pid)


async def test_what_takes_too_long_is_refused_and_the_next_body_read(monkeypatch: pytest.MonkeyPatch) -> None:
    body = json.dumps({"model": "mine", **BODIES[Dialect.OPENAI_CHAT]}).encode()
    with Large() as reader:
        monkeypatch.setattr(large, "READ_S", 0.0)
        with pytest.raises(CortexError, match="takes too long to read"):
            await reader.read(body, Dialect.OPENAI_CHAT, known, counting=False)
        monkeypatch.undo()
        assert (await reader.read(body, Dialect.OPENAI_CHAT, known, counting=False)).model == "tiny"


async def test_a_reader_that_dies_is_replaced() -> None:
    body = json.dumps({"model": "mine", **BODIES[Dialect.OPENAI_CHAT]}).encode()
    with Large() as reader:
        for _ in range(2):
            assert (await reader.read(body, Dialect.OPENAI_CHAT, known, counting=False)).model == "tiny"
            assert reader._process is not None
            reader._process.kill()
            reader._process.wait()


async def test_who_leaves_meanwhile_holds_up_nobody() -> None:
    body = json.dumps({"model": "mine", **BODIES[Dialect.OPENAI_CHAT]}).encode()
    with Large() as reader:
        async with asyncio.TaskGroup() as group:
            leaving = group.create_task(reader.read(body, Dialect.OPENAI_CHAT, known, counting=False))
            await until_async(lambda: reader._process is not None)
            leaving.cancel()
        assert (await reader.read(body, Dialect.OPENAI_CHAT, known, counting=False)).model == "tiny"


async def test_a_large_question_is_answered() -> None:
    async with ScriptedNeuron("beast") as beast, gateway([beast], [TINY]) as running:
        beast.ready("tiny")
        await running.up("beast")
        got = await running.chat(messages=[{"role": "user", "content": LONG}], stream=True)
        assert (got.status, got.whole) == (200, True)
        assert LONG.encode() in beast.asked[0].body
        unknown = await running.chat("other", messages=[{"role": "user", "content": LONG}])
        assert (unknown.status, unknown.error["code"]) == (404, "model_not_found")

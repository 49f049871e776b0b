"""The simulated engine calls a tool where one is offered, as predictable as its words; or it says what is scripted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from msgspec import structs

from cortex_core.config.neuron import SimTable
from neuron.engines.base import LoadSpec
from neuron.engines.script import Script
from neuron.engines.sim import SimOwner

QUICK = SimTable(load_s=0.0, unload_s=0.0, first_token_s=0.0, tokens_per_s=1e6)


def tool(name: str, *required: str) -> dict[str, Any]:
    properties = {one: {"type": "string"} for one in required}
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


@asynccontextmanager
async def loaded(folder: Path, table: SimTable) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of an engine that is loaded."""
    spec = LoadSpec(
        replica="r1",
        model="tiny",
        checkpoint=None,
        devices=("cpu:0",),
        memory_mb=100,
        kv_cache_mb=10,
        context=1000,
        options={},
        socket=folder / "r1",
        log=folder / "log",
    )
    async with asyncio.TaskGroup() as group:
        owner = SimOwner(table)
        group.create_task(owner.run())
        await owner.load(spec, lambda _: None, lambda _: None)
        async with aiohttp.ClientSession("http://sim", connector=aiohttp.UnixConnector(str(spec.socket))) as client:
            yield client
        await owner.close()


@pytest.fixture
async def engine(short_path: Path) -> AsyncIterator[aiohttp.ClientSession]:
    async with loaded(short_path, QUICK) as client:
        yield client


def body(**more: Any) -> dict[str, Any]:
    tools = [tool("get_weather", "city"), tool("run", "command", "user")]
    return {"model": "tiny", "messages": [{"role": "user", "content": "Weather?"}], "tools": tools} | more


async def ask(engine: aiohttp.ClientSession, **more: Any) -> Any:
    async with engine.post("/v1/chat/completions", json=body(**more)) as answer:
        assert answer.status == 200
        return (await answer.json())["choices"][0]


@pytest.mark.parametrize(
    ("choice", "name", "arguments"),
    [
        ("auto", "get_weather", {"city": "alder"}),
        ("required", "get_weather", {"city": "alder"}),
        ({"type": "function", "function": {"name": "run"}}, "run", {"command": "alder", "user": "birch"}),
    ],
)
async def test_it_calls_the_tool_that_is_named_else_the_first(
    engine: aiohttp.ClientSession, choice: Any, name: str, arguments: dict[str, str]
) -> None:
    answer = await ask(engine, tool_choice=choice)
    assert answer["finish_reason"] == "tool_calls"
    (call,) = answer["message"]["tool_calls"]
    assert call["function"]["name"] == name
    assert json.loads(call["function"]["arguments"]) == arguments


async def test_it_speaks_when_it_must_not_call_or_has_been_answered(engine: aiohttp.ClientSession) -> None:
    for more in ({"tool_choice": "none"}, {"messages": [{"role": "tool", "content": "21"}]}):
        answer = await ask(engine, **more)
        assert answer["finish_reason"] == "stop"
        assert answer["message"]["content"].startswith("tiny ")


async def test_a_stream_carries_the_same_call(engine: aiohttp.ClientSession) -> None:
    async with engine.post("/v1/chat/completions", json=body(stream=True)) as answer:
        lines = [line async for line in answer.content]
    events = [json.loads(line.removeprefix(b"data: ")) for line in lines if line.startswith(b"data: {")]
    calls = [call for event in events for call in event["choices"][0]["delta"].get("tool_calls", [])]
    whole = await ask(engine)
    assert [call["function"] for call in calls] == [whole["message"]["tool_calls"][0]["function"]]
    assert events[-1]["choices"][0]["finish_reason"] == "tool_calls"


CALL = {"index": 0, "id": "c1", "type": "function", "function": {"name": "run", "arguments": '{"command"'}}
REST = {"index": 0, "function": {"arguments": ': "ls"}'}}
TURNS = [
    {"deltas": [{"content": "Let me "}, {"content": "look."}, {"tool_calls": [CALL]}, {"tool_calls": [REST]}],
     "finish": "tool_calls"},
    {"deltas": [{"reasoning": "hm"}, {"content": "Half"}], "finish": "error"},
    {"deltas": [{"content": "Done."}]},
]  # fmt: skip


async def test_a_script_is_played_turn_by_turn_to_whoever_brings_tools(short_path: Path) -> None:
    script = short_path / "script.json"
    script.write_text(json.dumps({"tiny": TURNS}))
    async with loaded(short_path, structs.replace(QUICK, script=str(script))) as engine:
        first = await ask(engine)
        assert (first["finish_reason"], first["message"]["content"]) == ("tool_calls", "Let me look.")
        (call,) = first["message"]["tool_calls"]
        assert (call["id"], call["function"]) == ("c1", {"name": "run", "arguments": '{"command": "ls"}'})
        assert (await ask(engine, tools=None))["message"]["content"].startswith("tiny ")
        async with engine.post("/v1/chat/completions", json=body(stream=True)) as answer:
            said = await answer.text()
        assert '"reasoning":"hm"' in said
        assert '"error":' in said
        for _ in range(2):
            assert (await ask(engine))["message"]["content"] == "Done."


@pytest.mark.parametrize("script", ['{"tiny": [{"deltas": [], "finish": "oops"}]}', "[]", "{"])
def test_a_script_that_is_none_is_told_at_the_start(short_path: Path, script: str) -> None:
    path = short_path / "script.json"
    path.write_text(script)
    with pytest.raises(msgspec.DecodeError):
        Script(str(path))

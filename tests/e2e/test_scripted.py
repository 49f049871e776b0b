"""Streams that no real engine gives on demand, by a script behind the real neuron: each dialect's strictest reader.

What an agent would run is what counts: a call that was cut is never among it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest

from tests.support.daemons import GatewayProcess
from tests.support.host import fleet
from tests.support.readers import chat as chat_reader
from tests.support.readers import messages as messages_reader
from tests.support.readers import responses as responses_reader

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CITY = '{"city": "Paris"}'


def call(index: int, arguments: str, **first: Any) -> dict[str, Any]:
    name = {"name": first.pop("name")} if "name" in first else {}
    return {"tool_calls": [{"index": index, **first, "function": {**name, "arguments": arguments}}]}


def began(index: int) -> dict[str, Any]:
    return call(index, "", id=f"c{index}", type="function", name="get_weather")


PLAYS: Mapping[str, tuple[list[dict[str, Any]], str, int]] = {
    # name: deltas, finish, whole calls
    "text": ([{"content": "Hel"}, {"content": "lo"}], "stop", 0),
    "nothing": ([], "stop", 0),
    "thought-text-call": ([{"reasoning": "hm"}, {"content": "So"}, began(0), call(0, CITY)], "tool_calls", 1),
    "interleaved": (
        [began(0), began(1), call(0, CITY[:5]), call(1, CITY[:9]), call(0, CITY[5:]), call(1, CITY[9:])],
        "tool_calls",
        2,
    ),
    "all-in-one": (
        [{"reasoning": "hm", "content": "So", **call(0, CITY, id="c0", name="get_weather")}],
        "tool_calls",
        1,
    ),
    "letter-by-letter": ([began(0), *(call(0, letter) for letter in CITY)], "tool_calls", 1),
    "cut-by-length": ([{"content": "So"}, began(0), call(0, CITY[:-3])], "length", 0),
    "cut-and-closed": ([began(0), call(0, CITY), began(1), call(1, CITY[:-3])], "tool_calls", 1),
    "error": ([{"content": "So"}, began(0), call(0, CITY[:-3])], "error", 0),
    "late-error": ([{"content": "So"}, began(0), call(0, CITY)], "error", 1),
}
BODIES: Mapping[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "messages": [{"role": "user", "content": "Weather?"}], "stream_options": {"include_usage": True},
        "tools": [{"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}],
    },
    "/v1/messages": {
        "messages": [{"role": "user", "content": "Weather?"}], "max_tokens": 100, "thinking": {"type": "adaptive"},
        "tools": [{"name": "get_weather", "input_schema": SCHEMA}],
    },
    "/v1/responses": {
        "input": "Weather?", "tools": [{"type": "function", "name": "get_weather", "parameters": SCHEMA}],
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def gateway() -> Iterator[GatewayProcess]:
    """Each play is a model, which says it again and again."""
    with fleet() as host:
        script = host.folder / "script.json"
        plays = {name: [{"deltas": deltas, "finish": finish}] for name, (deltas, finish, _) in PLAYS.items()}
        script.write_text(json.dumps(plays))
        table = {"load_s": 0.05, "unload_s": 0.05, "first_token_s": 0.01, "tokens_per_s": 1000.0, "weights_mb": 10}
        neuron = host.neuron("stage", memory_mb=100 * len(PLAYS), sim={**table, "script": str(script)})
        yield host.gateway([neuron], [{"id": name, "vram_mb": 50} for name in PLAYS])


@pytest.mark.parametrize("play", PLAYS)
@pytest.mark.parametrize("path", BODIES)
def test_every_stream_is_one_that_the_strictest_reader_takes(gateway: GatewayProcess, path: str, play: str) -> None:
    _, finish, wholes = PLAYS[play]
    said = b""
    broken = False
    with httpx.stream("POST", gateway.url + path, json=BODIES[path] | {"model": play, "stream": True}) as answer:
        assert answer.status_code == 200
        try:
            for piece in answer.iter_raw():
                said += piece
        except httpx.RemoteProtocolError:
            broken = True
    assert broken is (finish == "error"), "a failure never ends as an answer does"
    ran = run(path, said, ended=not broken)
    assert ran == wholes if finish == "tool_calls" and "cut" not in play else ran <= wholes


def run(path: str, said: bytes, *, ended: bool) -> int:
    """How many calls an agent would run by what it heard."""
    if path == "/v1/messages":
        read = messages_reader.read(said if ended else said.rpartition(b"event: error")[0], ended=ended)
        return len(read.tools) if read.stop_reason == "tool_use" else 0
    if path == "/v1/responses":
        return len(responses_reader.read(said).ran)
    if not ended:
        assert b"[DONE]" not in said
        return 0
    choice = chat_reader.read(said).choices[0]
    return len(choice.calls) if choice.finish == "tool_calls" else 0

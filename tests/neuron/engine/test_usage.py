"""The real engine: what each request has used, told by the engine host, also of a request cut short."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio

from neuron.engines.base import Engine, Finished
from tests.neuron.engine.conftest import Tiny
from tests.support.bench import chat, client, finished, metric, question
from tests.support.until import until_async

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="session")]

ENDLESS = {"ignore_eos": True, "max_tokens": 480}  # as much as fits beside a short question


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def beast(tiny: Tiny) -> AsyncIterator[Engine]:
    """One engine for all of these: they only ask it something."""
    engine = await tiny.load("tiny-beast")
    yield engine
    await engine.close(5)


async def test_tools_are_called_without_being_configured(beast: Engine) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": schema}}
    answer = await chat(beast, "What is the weather in Paris?", tools=[tool])
    (call,) = answer["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "get_weather"
    assert "Paris" in call["function"]["arguments"]


@pytest.mark.parametrize(
    ("body", "outcome"),
    [({}, "stop"), ({"max_tokens": 3}, "length"), ({"max_tokens": 3, "n": 2, "temperature": 1}, "length")],
    ids=["whole", "cut", "two choices"],
)
async def test_what_a_request_used_is_told_as_its_answer_says(
    tiny: Tiny, beast: Engine, body: dict[str, Any], outcome: str, request: pytest.FixtureRequest
) -> None:
    request_id = request.node.name
    usage = (await chat(beast, "Count to 5", request_id=request_id, **body))["usage"]
    told = await finished(tiny.bench, request_id)
    assert told.outcome == outcome
    assert (told.prompt_tokens, told.completion_tokens) == (usage["prompt_tokens"], usage["completion_tokens"])


async def test_tokens_found_in_the_prefix_cache_are_told(tiny: Tiny, beast: Engine) -> None:
    long = "apple bird blue " * 40
    await chat(beast, long, request_id="q-cold", max_tokens=4)
    usage = (await chat(beast, long, request_id="q-cached", max_tokens=4))["usage"]
    cached = await finished(tiny.bench, "q-cached")
    assert cached.cached_tokens == usage["prompt_tokens_details"]["cached_tokens"] > 0
    assert (await finished(tiny.bench, "q-cold")).cached_tokens < cached.cached_tokens


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_what_an_aborted_request_used_is_told_to_the_token(tiny: Tiny, beast: Engine, stream: bool) -> None:
    """Against vLLM's own counters; it has none for a single request that was aborted."""
    before = await used(beast)
    request_id = f"q-aborted-{stream}"
    asking = asyncio.get_running_loop().create_task(
        chat(beast, "Count to 5", request_id=request_id, **ENDLESS | {"stream": stream})
    )

    async def computing() -> bool:
        return (await used(beast))[1] > before[1] + 5

    condition: Callable[[], bool | Awaitable[bool]] = computing
    await until_async(condition, what="tokens are computed")
    asking.cancel()  # the client leaves
    aborted = await finished(tiny.bench, request_id)
    after = await used(beast)
    assert aborted.outcome == "abort"
    assert (aborted.prompt_tokens, aborted.completion_tokens) == (after[0] - before[0], after[1] - before[1])
    assert 5 < aborted.completion_tokens < 480
    assert await metric(beast, "vllm:num_requests_running") == 0


async def used(engine: Engine) -> tuple[float, float]:
    return await metric(engine, "vllm:prompt_tokens_total"), await metric(engine, "vllm:generation_tokens_total")


async def test_a_refused_request_is_told_as_an_error_that_used_nothing(tiny: Tiny, beast: Engine) -> None:
    async with client(beast) as session:
        asked = question("Count to 5", "q-wrong", {"max_tokens": -1})
        async with session.post("/v1/chat/completions", **asked) as answer:
            assert answer.status == 400
    nothing = Finished(request_id="q-wrong", prompt_tokens=0, cached_tokens=0, completion_tokens=0, outcome="error")
    assert await finished(tiny.bench, "q-wrong") == nothing

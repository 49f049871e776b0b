"""What a model's template takes is known from its first load on: the requests that wait for that load gain by it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from cortex_core.fleet import ModelFacts
from tests.support.gateway import TINY, Got, Running, gateway
from tests.support.scripted import ANSWER, ScriptedNeuron, says

TOLD = ModelFacts(context=4096, vision=False, system_first=False, reasoning=True, thinking_toggle="none")
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}
LONG = {"type": "text", "text": "word " * 40_000}  # as much as another process reads


def messages(*more: dict[str, Any]) -> dict[str, Any]:
    """An image, which an engine whose model is blind refuses, and a system message that some templates take."""
    said = [
        {"role": "user", "content": [IMAGE, {"type": "text", "text": "What is it?"}, *more]},
        {"role": "system", "content": "A reminder"},
        {"role": "assistant", "content": "I see nothing"},
        {"role": "user", "content": "Look again"},
    ]
    return {"model": "tiny", "max_tokens": 100, "messages": said}


@pytest.mark.parametrize("more", [(), (LONG,)], ids=["small", "large"])
async def test_a_first_request_is_translated_as_the_next_ones_are(more: tuple[dict[str, Any], ...]) -> None:
    async with ScriptedNeuron("beast") as beast:
        beast.facts, beast.answers = TOLD, says(ANSWER)
        async with gateway([beast], [TINY], hold_s=10.0, hold_not_streaming_s=10.0) as running:
            await running.up("beast")
            cold, warm = [await asks(running, *more) for _ in range(2)]
            states = [got.headers["x-cortex-model-state"] for got in (cold, warm)]
            assert (cold.status, warm.status, states) == (200, 200, ["cold", "warm"])
        first, second = (msgspec.json.decode(asked.body) for asked in beast.asked)
        assert first == second
        text = msgspec.json.encode(first["messages"]).decode()
        assert "image omitted" in text
        assert [message["role"] for message in first["messages"]] == ["user", "system", "assistant", "user"]
        assert first["reasoning_effort"] == "none"


async def asks(running: Running, *more: dict[str, Any]) -> Got:
    return await running.ask("POST", "/v1/messages", messages(*more), {"anthropic-version": "2023-06-01"})

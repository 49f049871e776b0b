"""goal_R20: a thousand cold requests at once are one load, also through two gateways without a word between them."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack

import pytest

from tests.support.chat import Answer, chatting
from tests.support.host import fleet

HERD = 1000
MODEL = "alder"


@pytest.mark.parametrize("names", [("one",), ("one", "other")], ids=["one gateway", "two gateways"])
async def test_a_thousand_cold_requests_are_one_load(names: tuple[str, ...]) -> None:
    sim = {"load_s": 1.0, "first_token_s": 0.02, "tokens_per_s": 400.0, "weights_mb": 100}
    profile = {"id": MODEL, "vram_mb": 600, "max_in_flight": 64}
    with fleet() as host:
        small, large = (host.neuron(name, memory_mb=mb, sim=sim) for name, mb in (("small", 500), ("large", 1000)))
        gateways = [host.gateway([small, large], [profile], name=name) for name in names]
        async with AsyncExitStack() as stack:
            chats = [await stack.enter_async_context(chatting(gateway.url)) for gateway in gateways]
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            asking = [
                tasks.create_task(chats[number % len(chats)].ask(MODEL, f"{number}", max_tokens=4))
                for number in range(HERD)
            ]
        answers: list[Answer] = [task.result() for task in asking]
        assert Counter(answer.status for answer in answers if not answer.clean) == {}
        assert small.replicas() == []
        [replica] = large.replicas()
        assert replica["state"] == "ready"
        assert replica["id"].endswith("-1"), "a neuron numbers its loads"

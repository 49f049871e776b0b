"""goal_R20 through two gateways that know nothing of each other: a thousand cold requests at once are one load."""

from __future__ import annotations

import asyncio
from collections import Counter

from tests.support.chat import Answer, chatting
from tests.support.host import fleet

HERD = 1000
MODEL = "alder"


async def test_a_thousand_cold_requests_through_two_gateways_are_one_load() -> None:
    sim = {"load_s": 1.0, "first_token_s": 0.02, "tokens_per_s": 400.0, "weights_mb": 100}
    profile = {"id": MODEL, "vram_mb": 600, "max_in_flight": 64}
    with fleet() as host:
        small, large = (host.neuron(name, memory_mb=mb, sim=sim) for name, mb in (("small", 500), ("large", 1000)))
        gateways = [host.gateway([small, large], [profile], name=name) for name in ("one", "other")]
        async with chatting(gateways[0].url) as one, chatting(gateways[1].url) as other, asyncio.TaskGroup() as tasks:
            asking = [
                tasks.create_task((one, other)[number % 2].ask(MODEL, f"{number}", max_tokens=4))
                for number in range(HERD)
            ]
        answers: list[Answer] = [task.result() for task in asking]
        assert Counter(answer.status for answer in answers if not answer.clean) == {}
        assert small.replicas() == []
        [replica] = large.replicas()
        assert replica["state"] == "ready"
        assert replica["id"].endswith("-1"), "a neuron numbers its loads"

"""goal_R20: however many ask at once for a model that is not loaded, it is loaded once and all are answered."""

from __future__ import annotations

import asyncio

import pytest

from tests.e2e.conftest import BEAST, BENJY, THIRD, Cluster
from tests.support import engines
from tests.support.chat import Answer, Chat
from tests.support.until import until
from tools.tinymodel.skills import WORDS

HERD = 200


async def all_of(chat: Chat, model: str, contents: list[str], **body: object) -> list[Answer]:
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(chat.ask(model, content, stream=bool(number % 2), max_tokens=8, temperature=0, **body))
            for number, content in enumerate(contents)
        ]
    return [task.result() for task in tasks]


async def test_a_herd_on_a_cold_model_is_one_load_and_200_answers(sim: Cluster, chat: Chat) -> None:
    sim.empty()
    cold = sim.gateway.metric("cortex_cold_starts_total", model=BEAST)
    answers = await all_of(chat, BEAST, [f"question {number}" for number in range(HERD)])
    assert [answer.status for answer in answers if not answer.clean] == []
    assert len({answer.text for answer in answers}) > HERD / 2, "the simulation answers each question in its own words"
    [(_, replica)] = sim.replicas(BEAST)
    assert replica["state"] == "ready"
    until(lambda: sim.gateway.metric("cortex_requests_total", model=BEAST) >= HERD, what="all counted")
    assert sim.gateway.metric("cortex_cold_starts_total", model=BEAST) == cold + 1


async def test_herds_on_more_models_than_fit_are_all_answered(sim: Cluster, chat: Chat) -> None:
    sim.empty()
    async with asyncio.TaskGroup() as group:
        herds = {
            model: group.create_task(all_of(chat, model, [f"{model} {n}" for n in range(20)]))
            for model in (BEAST, BENJY, THIRD)
        }
    for model, herd in herds.items():
        assert all(answer.clean for answer in herd.result()), [a for a in herd.result() if not a.clean]
        assert all(answer.text.startswith(model) for answer in herd.result()), "an answer of another model"


@pytest.mark.engine
@engines.needs_vllm
async def test_a_real_engine_answers_each_of_a_herd_with_its_own_word(vllm: Cluster, chat: Chat) -> None:
    cold = vllm.gateway.metric("cortex_cold_starts_total", model=BENJY)
    words = [WORDS[number % len(WORDS)] for number in range(HERD)]
    answers = await all_of(chat, BENJY, [f"Say {word}" for word in words])
    assert [answer.status for answer in answers if not answer.clean] == []
    assert [answer.text for answer in answers] == words, "each client got its own answer"
    [(_, replica)] = vllm.replicas(BENJY)
    assert replica["state"] == "ready"
    until(lambda: vllm.gateway.metric("cortex_cold_starts_total", model=BENJY) == cold + 1, what="one cold start")

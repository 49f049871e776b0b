"""The real engine: what a load tells, what it answers, what each request has used, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from cortex_core.fleet import ModelFacts
from neuron.engines.base import Engine
from tests.neuron.engine.conftest import Tiny
from tests.support.bench import chat, client, events, finished, gone, question
from tests.support.process import children
from tools.tinymodel.fleet import ANSWERS, QUESTION

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="session")]

PHASES = ["fork", "config", "engine", "device", "weights", "profile", "kv_cache", "warmup", "serving"]
ENDLESS = {"ignore_eos": True, "max_tokens": 480, "stream": True}  # as much as fits beside a short question


@contextlib.asynccontextmanager
async def loaded(tiny: Tiny, model: str = "tiny-beast", **changes: Any) -> AsyncIterator[Engine]:
    engine = await tiny.load(model, **changes)
    try:
        yield engine
    finally:
        await engine.close(5)


async def test_a_load_tells_its_phases_in_order_and_then_serves(tiny: Tiny) -> None:
    async with loaded(tiny) as engine:
        assert [phase for phase, _ in groupby(step.phase for step in tiny.bench.progress)] == PHASES
        assert max(step.done for step in tiny.bench.progress if step.phase == "weights") == 1
        assert engine.facts.context == 512
        assert engine.facts.kv_tokens > 512
        assert engine.facts.tasks == ("generate",)
        answer = await chat(engine, QUESTION, request_id="q-first")
        assert answer["model"] == "tiny-beast"
        assert answer["choices"][0]["message"]["content"] == ANSWERS["tiny-beast"]
    ended = await engine.ended()
    assert ended.clean, ended
    assert gone(engine)
    assert tiny.bench.left() == []


async def test_two_models_answer_side_by_side(tiny: Tiny) -> None:
    async with loaded(tiny, "tiny-beast") as beast, loaded(tiny, "tiny-benjy") as benjy:
        answers = await asyncio.gather(*(chat(engine, QUESTION) for engine in (beast, benjy)))
        said = [answer["choices"][0]["message"]["content"] for answer in answers]
        assert said == [ANSWERS["tiny-beast"], ANSWERS["tiny-benjy"]]


async def test_two_workers_share_a_model_and_leave_no_shared_memory(tiny: Tiny) -> None:
    async with loaded(tiny, options={"tensor_parallel_size": 2, "max_num_seqs": 4}) as engine:
        answer = await chat(engine, QUESTION)
        assert answer["choices"][0]["message"]["content"] == ANSWERS["tiny-beast"]
        assert len(children(engine.facts.pids[1])) >= 2
        assert any(name.endswith("cpushm_1") for name in tiny.bench.left())  # named so that it can be removed
    assert tiny.bench.left() == []


async def test_closing_lets_running_requests_finish_within_the_grace(tiny: Tiny) -> None:
    engine = await tiny.load()
    async with client(engine) as session:
        asked = question("Count to 5", "q-drained", ENDLESS)
        async with session.post("/v1/chat/completions", **asked) as answer:
            stream = events(answer)
            await anext(stream)
            async with asyncio.TaskGroup() as group:
                group.create_task(engine.close(30))
                last = [event async for event in stream][-1]
            assert last["choices"][0]["finish_reason"] == "length"
    assert (await finished(tiny.bench, "q-drained")).outcome == "length"
    assert (await engine.ended()).clean


async def test_closing_without_grace_cuts_running_requests_and_tells_their_usage(tiny: Tiny) -> None:
    engine = await tiny.load()
    async with client(engine) as session:
        asked = question("Count to 5", "q-stopped", ENDLESS)
        async with session.post("/v1/chat/completions", **asked) as answer:
            await anext(events(answer))
            await engine.close(0)
    assert (await engine.ended()).clean
    stopped = await finished(tiny.bench, "q-stopped")
    assert stopped.outcome == "abort"
    assert 0 < stopped.completion_tokens < 480


async def test_cycles_leave_nothing_and_grow_nothing(tiny: Tiny) -> None:
    def descriptors() -> list[int]:
        zygote = tiny.owner.describe()["zygote_pid"]
        return [sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()) for pid in (os.getpid(), zygote)]

    before = descriptors()
    for _ in range(3):
        async with loaded(tiny) as engine:
            await chat(engine, QUESTION)
        assert gone(engine)
        assert tiny.bench.left() == []
    assert descriptors() == before


async def test_what_translation_needs_is_read_from_the_model_itself(tiny: Tiny) -> None:
    async with loaded(tiny) as engine:
        assert engine.facts.model == ModelFacts(
            context=512, vision=False, system_first=False, accepts_developer=True, thinking_toggle="none", tools=True
        )

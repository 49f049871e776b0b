"""The real engine, when something breaks: what is told, what goes on, what is left."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from neuron.engines.base import EngineFailed
from tests.neuron.engine.conftest import Tiny
from tests.support.bench import chat, client, events, gone, question
from tests.support.process import children
from tests.support.until import until_async
from tools.tinymodel.fleet import ANSWERS, QUESTION

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="session")]

ENDLESS = {"ignore_eos": True, "max_tokens": 480, "stream": True}


def copied(tiny: Tiny, name: str) -> Path:
    """A model folder that may be spoilt."""
    folder = tiny.bench.folder / name
    shutil.copytree(tiny.bench.folder / "models" / "tiny-third", folder, dirs_exist_ok=True)
    return folder


def missing(tiny: Tiny) -> dict[str, Any]:
    return {"checkpoint": tiny.bench.folder / "nowhere"}


def unknown_architecture(tiny: Tiny) -> dict[str, Any]:
    folder = copied(tiny, "unknown")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["Abacus"], "model_type": "abacus"}))
    return {"checkpoint": folder}


def corrupt_weights(tiny: Tiny) -> dict[str, Any]:
    folder = copied(tiny, "corrupt")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    return {"checkpoint": folder}


def no_weights(tiny: Tiny) -> dict[str, Any]:
    folder = copied(tiny, "empty")
    (folder / "model.safetensors").unlink()
    return {"checkpoint": folder}


def small_cache(_tiny: Tiny) -> dict[str, Any]:
    return {"kv_cache_mb": 1, "context": 2048}


def unknown_option(_tiny: Tiny) -> dict[str, Any]:
    return {"options": {"max_num_seq": 4}}


def wrong_value(_tiny: Tiny) -> dict[str, Any]:
    return {"options": {"max_num_seqs": "many"}}


def not_the_profiles(_tiny: Tiny) -> dict[str, Any]:
    return {"options": {"port": 80}}


@pytest.mark.parametrize(
    ("spoil", "phase", "words"),
    [
        (missing, "config", "nowhere: it has no config.json"),
        (unknown_architecture, "config", "abacus"),
        (unknown_option, "config", "unknown option max_num_seq, did you mean max_num_seqs?"),
        (wrong_value, "config", "invalid"),
        (not_the_profiles, "config", "port is decided by the neuron"),
        (no_weights, "weights", "Cannot find any model weights"),
        (corrupt_weights, "weights", "SafetensorError"),
        (small_cache, "kv_cache", "KV cache"),
    ],
)
async def test_a_bad_load_fails_in_its_phase_with_the_engines_own_words(
    tiny: Tiny, spoil: Any, phase: str, words: str
) -> None:
    with pytest.raises(EngineFailed) as failed:
        await tiny.load("tiny-third", **spoil(tiny))
    assert words in failed.value.message
    assert failed.value.phase == phase
    assert "root cause" not in failed.value.message
    assert tiny.bench.left() == []
    assert children(int(tiny.owner.describe()["zygote_pid"])) == []


async def test_a_bad_load_leaves_the_engine_beside_it_alone(tiny: Tiny) -> None:
    engine = await tiny.load()
    async with client(engine) as session:
        asked = question("Count to 5", "q-beside", ENDLESS)
        async with session.post("/v1/chat/completions", **asked) as answer:
            stream = events(answer)
            await anext(stream)
            with pytest.raises(EngineFailed):
                await tiny.load("tiny-third", **corrupt_weights(tiny))
            *_, last = [event async for event in stream]
            assert last["choices"][0]["finish_reason"] == "length"
    await engine.close(5)


@pytest.mark.parametrize("phase", ["config", "device", "weights"])
async def test_a_load_cancelled_in_any_phase_leaves_nothing(tiny: Tiny, phase: str) -> None:
    load = asyncio.get_running_loop().create_task(tiny.load())
    await until_async(lambda: any(step.phase == phase for step in tiny.bench.progress), timeout_s=60)
    load.cancel()
    with pytest.raises(asyncio.CancelledError):
        await load
    assert tiny.bench.left() == []
    assert children(int(tiny.owner.describe()["zygote_pid"])) == []


@pytest.mark.parametrize(("victim", "words"), [(0, "SIGKILL"), (1, "engine core died")], ids=["host", "core"])
async def test_a_killed_process_breaks_its_streams_and_no_others(tiny: Tiny, victim: int, words: str) -> None:
    engine, other = await tiny.load("tiny-beast"), await tiny.load("tiny-benjy")
    await chat(engine, QUESTION)  # the first request is slow in coming, and a core may be far ahead of it
    async with client(engine) as session, client(other) as beside:
        asked = question("Count to 5", "q-doomed", ENDLESS)
        asked_beside = question("Count to 5", "q-lives", ENDLESS)
        async with (
            beside.post("/v1/chat/completions", **asked_beside) as beside_answer,
            session.post("/v1/chat/completions", **asked) as answer,
        ):
            stream, lives = events(answer), events(beside_answer)
            await anext(lives)
            await anext(stream)
            os.kill(engine.facts.pids[victim], signal.SIGKILL)  # at once: what it would say ends by itself
            try:
                seen = [event async for event in stream]
                assert "error" in seen[-1]
            except aiohttp.ClientError:
                assert victim == 0  # nobody was left to say it
            *_, last = [event async for event in lives]
            assert last["choices"][0]["finish_reason"] == "length"
    async with asyncio.timeout(2):
        ended = await engine.ended()
    assert not ended.clean
    assert words in ended.reason
    assert gone(engine)
    again = await tiny.load("tiny-beast")
    assert (await chat(again, QUESTION))["choices"][0]["message"]["content"] == ANSWERS["tiny-beast"]
    await again.close(5)
    await other.close(5)
    assert tiny.bench.left() == []


async def test_an_idle_engine_whose_core_dies_ends_by_itself(tiny: Tiny) -> None:
    engine = await tiny.load()
    os.kill(engine.facts.pids[1], signal.SIGKILL)
    async with asyncio.timeout(2):
        ended = await engine.ended()
    assert not ended.clean
    assert "engine core died" in ended.reason
    assert gone(engine)


async def test_a_killed_zygote_takes_its_engines_along_and_the_next_load_serves(tiny: Tiny) -> None:
    engine = await tiny.load()
    os.kill(int(tiny.owner.describe()["zygote_pid"]), signal.SIGKILL)
    async with asyncio.timeout(1):
        ended = await engine.ended()
        await until_async(lambda: gone(engine))
    assert "zygote" in ended.reason
    assert tiny.bench.left() == []
    again = await tiny.load()
    assert (await chat(again, QUESTION))["choices"][0]["message"]["content"] == ANSWERS["tiny-beast"]
    await again.close(5)

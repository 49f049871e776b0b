"""One neuron on one card: what is clean, what a load takes, what comes back, what is found when it hangs."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from cortex_core.http import Client
from cortex_core.neuron_api import Operation
from neuron.engines.base import LoadSpec, Progress
from neuron.hardware.devices import DeviceOwner
from tests.gpu.card import REHEARSAL, Figures, cards, computing, opened, threads, used_bytes
from tests.gpu.conftest import STALL_S
from tests.neuron.contract.subject import Subject, rest_of
from tests.support.bench import Bench, bench, chat, running
from tests.support.daemons import NeuronProcess
from tests.support.engines import engine_core, engine_host, zygote
from tests.support.process import alive, children
from tests.support.until import until_async
from tools.tinymodel.fleet import ANSWERS, MODELS, QUESTION

pytestmark = pytest.mark.gpu

FIRST, SECOND, _ = MODELS
CYCLES = 10
MEMORY_MB = 600 if REHEARSAL else 4000  # of a tiny model
KV_MB = 64
DEVICE = "cpu:0" if REHEARSAL else "cuda:0"
BACK_S = 5.0  # until the driver shows memory as free again
MIB = 1 << 20


@asynccontextmanager
async def talking(neuron: NeuronProcess) -> AsyncIterator[Subject]:
    """With nothing loaded."""
    client = Client(neuron.url, connect_timeout_s=10)
    subject = Subject(client, tuple(MODELS), MEMORY_MB)
    await subject.clear()
    yield subject
    await client.close()


def owner_of(made: Bench, *devices: str) -> DeviceOwner:
    return DeviceOwner(
        devices or (DEVICE,),
        python=sys.executable,
        environment={**os.environ, **made.environment},
        cache_dir=made.folder / "cache",
        log_dir=made.folder,
        module="neuron.engines.vllm",
    )


def spec_of(made: Bench, models_dir: Path, model: str, **changes: Any) -> LoadSpec:
    values = {"checkpoint": models_dir / model, "devices": (DEVICE,), "memory_mb": MEMORY_MB, "kv_cache_mb": KV_MB}
    return made.spec(model, **{**values, "context": 1024, "options": {"max_num_seqs": 16}, **changes})


async def test_the_zygote_is_clean_and_forks(neuron: NeuronProcess, figures: Figures) -> None:
    """Nothing that it imports may touch the device: its children would inherit a context that they cannot use."""
    pid = zygote(neuron)
    with bench() as made:
        async with running(owner_of(made)) as owner:
            await until_async(lambda: owner.describe()["state"] == "ready", timeout_s=300)
            described = owner.describe()
            own = int(described["zygote_pid"])
            files, count = opened(own), threads(own)
    figures.add("zygote", f"{described['start_s']:.1f} s to import, {count} thread, {described['detail'] or 'forks'}")
    assert described["forks"], described["detail"]
    assert count == 1
    assert files == []
    assert not {own, pid} & computing()
    assert described["problems"] == []


@pytest.mark.parametrize("startup", ["fast", "balanced", "max"])
@pytest.mark.parametrize("model", [FIRST, "large"])
async def test_where_the_seconds_of_a_load_go(models_dir: Path, figures: Figures, model: str, startup: str) -> None:
    """Twice: what the first one compiles, the second finds."""
    with bench() as made:
        async with running(owner_of(made)) as owner:
            await until_async(lambda: owner.describe()["state"] == "ready", timeout_s=300)
            for number in ("first", "second"):
                steps: list[tuple[float, Progress]] = []

                def note(step: Progress, steps: list[tuple[float, Progress]] = steps) -> None:
                    steps.append((time.monotonic(), step))

                began = time.monotonic()
                memory_mb = MEMORY_MB if model == FIRST else 3 * MEMORY_MB
                spec = spec_of(made, models_dir, model, memory_mb=memory_mb, startup=startup)
                engine = await owner.load(spec, note, made.finished.append)
                loaded_s = time.monotonic() - began
                answer = await chat(engine, QUESTION, max_tokens=8)
                answered_s = time.monotonic() - began
                began = time.monotonic()
                await engine.close(5)
                figures.add(
                    f"{number} load of {model}, startup {startup}",
                    f"{loaded_s:.2f} s, with an answer {answered_s:.2f} s; unload {time.monotonic() - began:.2f} s",
                    "≤ 1.5 s beside context, weights and graphs",
                )
                figures.add("of it", phases(steps))
                if model == FIRST:
                    assert answer["choices"][0]["message"]["content"] == ANSWERS[FIRST]


def phases(steps: list[tuple[float, Progress]]) -> str:
    took: dict[str, float] = {}
    for (at, step), (then, _) in pairwise(steps):
        took[step.phase] = took.get(step.phase, 0.0) + then - at
    return ", ".join(f"{phase} {seconds:.2f}" for phase, seconds in took.items() if seconds >= 0.01)


async def test_ten_cycles_give_all_memory_back(neuron: NeuronProcess, figures: Figures) -> None:
    async with talking(neuron) as subject:
        await subject.load(FIRST)  # the first context of a driver leaves something behind that stays
        await subject.clear()
        before, loads_s, unloads_s = used_bytes(), [], []
        for _number in range(CYCLES):
            began = time.monotonic()
            replica = await subject.load(FIRST)
            assert (await subject.ask(replica, tokens=1)).status == 200
            loads_s.append(time.monotonic() - began)
            began = time.monotonic()
            await subject.clear()
            unloads_s.append(time.monotonic() - began)
            await until_async(lambda: used_bytes() <= before, timeout_s=BACK_S, what="the card's memory is back")
        figures.add("load to first token, median of ten", f"{statistics.median(loads_s):.2f} s", "≤ 1.5 s")
        figures.add("unload, median of ten", f"{statistics.median(unloads_s):.2f} s", "≤ 1 s")
        figures.add("memory after ten cycles", f"{used_bytes() - before:+d} bytes", "0")
        assert computing() == set() or REHEARSAL


async def test_what_a_load_really_took_is_known(neuron: NeuronProcess, figures: Figures) -> None:
    async with talking(neuron) as subject:
        await subject.clear()
        before = used_bytes()
        await subject.load(FIRST)
        taken_mb = (used_bytes() - before) / MIB

        async def measured() -> int:
            known = [one for one in (await subject.report()).known if one.model == FIRST]
            return known[0].overhead_mb if known else 0

        if not REHEARSAL:
            overhead_mb = await until_async(measured, timeout_s=5)
            figures.add("a tiny model on the card", f"{taken_mb:.0f} MB of {MEMORY_MB}; overhead {overhead_mb} MB")
            assert taken_mb <= MEMORY_MB


async def test_two_models_share_a_card(neuron: NeuronProcess, figures: Figures) -> None:
    async with talking(neuron) as subject:
        first = await subject.load(FIRST)
        gaps_s: list[float] = []

        async def listen() -> None:
            async with subject.streaming(first, tokens=1900) as stream:
                last = time.monotonic()
                while await stream.read_some():
                    now = time.monotonic()
                    gaps_s.append(now - last)
                    last = now

        async with asyncio.TaskGroup() as group:
            group.create_task(listen())
            second = await subject.load(SECOND)
        for replica in (first, second):
            body = {"model": replica.model, "messages": [{"role": "user", "content": QUESTION}], "temperature": 0}
            answer = await subject.call("POST", "/v1/chat/completions", body, subject.head(replica))
            assert answer.json()["choices"][0]["message"]["content"] == ANSWERS[replica.model]
        figures.add("longest gap of a stream while its neighbour loads", f"{max(gaps_s) * 1000:.0f} ms", "≤ 50 ms")


@pytest.mark.parametrize("victim", ["core", "host", "zygote"])
async def test_a_killed_process_gives_its_memory_back(neuron: NeuronProcess, figures: Figures, victim: str) -> None:
    async with talking(neuron) as subject:
        before = used_bytes()
        replica = await subject.load(FIRST)
        find = {"core": lambda: engine_core(neuron, FIRST), "host": lambda: engine_host(neuron, FIRST)}
        pid = find.get(victim, lambda: zygote(neuron))()
        doomed = [pid, *children(pid)]
        os.kill(pid, signal.SIGKILL)
        began = time.monotonic()
        await until_async(lambda: not any(map(alive, doomed)), timeout_s=5)
        gone_s = time.monotonic() - began

        async def again() -> bool:
            found = await subject.replica(FIRST)
            return found is not None and found.state == "ready" and found.version > replica.version

        await until_async(again, timeout_s=120)
        figures.add(
            f"kill -9 of the {victim}",
            f"all of it gone after {gone_s:.2f} s, served again after {time.monotonic() - began:.2f} s",
            "1 s, load + 5 s",
        )
        await subject.clear()
        await until_async(lambda: used_bytes() <= before, timeout_s=BACK_S, what="the card's memory is back")


async def test_a_stopped_engine_is_found(neuron: NeuronProcess, figures: Figures) -> None:
    async with talking(neuron) as subject:
        replica = await subject.load(FIRST)
        async with subject.streaming(replica, tokens=1900) as stream:
            os.kill(engine_core(neuron, FIRST), signal.SIGSTOP)
            began = time.monotonic()
            _, clean = await rest_of(stream)
        found_s = time.monotonic() - began
        figures.add("a hung engine is found", f"{found_s:.1f} s", f"≤ {STALL_S + 1:g} s")
        assert not clean
        assert found_s <= STALL_S + (3 if REHEARSAL else 1)
        assert (await subject.ask(await subject.until_state(FIRST, "ready"))).status == 200


@pytest.mark.parametrize("level", [1, 2])
async def test_a_model_sleeps_and_wakes_with_its_wits(neuron: NeuronProcess, figures: Figures, level: int) -> None:
    async with talking(neuron) as subject:
        profile = subject.profile(FIRST, engine={"enable_sleep_mode": True})
        loaded = await subject.command("/models/load", model=FIRST, profile=profile)
        if REHEARSAL:  # a CPU's engine takes no such option, and says so before anything is there
            assert (loaded.status, loaded.refusal.field) == (422, "profile.engine")
            assert "Sleep mode is not supported" in loaded.refusal.message
            return
        replica = loaded.as_(Operation).replica
        assert replica is not None
        awake = used_bytes()
        began = time.monotonic()
        slept = await subject.command("/models/sleep", replica=replica.id, version=replica.version, level=level)
        slept_s = time.monotonic() - began
        assert slept.status == 200, slept.body
        back_mb = (awake - used_bytes()) / MIB
        began = time.monotonic()
        woken = await subject.command("/models/wake", replica=replica.id)
        woken_s = time.monotonic() - began
        assert woken.status == 200, woken.body
        body = {"model": FIRST, "messages": [{"role": "user", "content": QUESTION}], "temperature": 0}
        answer = await subject.call("POST", "/v1/chat/completions", body, subject.head(replica))
        assert answer.json()["choices"][0]["message"]["content"] == ANSWERS[FIRST]
        figures.add(f"sleep, level {level}", f"{slept_s:.2f} s, {back_mb:.0f} MB given back; wake {woken_s:.2f} s")
        assert back_mb >= KV_MB


@pytest.mark.skipif(not REHEARSAL and cards() < 2, reason="tensor parallel wants two cards")
async def test_one_model_over_two_cards(models_dir: Path, figures: Figures) -> None:
    devices = ("cpu:0",) if REHEARSAL else ("cuda:0", "cuda:1")
    options = {"max_num_seqs": 16, "tensor_parallel_size": 2}
    with bench() as made:
        async with running(owner_of(made, *devices)) as owner:
            began = time.monotonic()
            engine = await made.load(owner, spec_of(made, models_dir, FIRST, devices=devices, options=options))
            loaded_s = time.monotonic() - began
            answer = await chat(engine, QUESTION)
            await engine.close(5)
            assert answer["choices"][0]["message"]["content"] == ANSWERS[FIRST]
            assert made.left() == []
    figures.add("a tiny model over two cards, zygote's start included", f"{loaded_s:.1f} s")

"""A device's owner and its zygote: the rules of processes, with an engine that computes nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial

import pytest

from neuron.engines import hosted
from neuron.engines.base import EngineFailed
from neuron.hardware.devices import DeviceOwner
from neuron.leftovers import sweep
from tests.support.bench import Bench, bench, gone, running
from tests.support.process import alive, children
from tests.support.until import until, until_async


@pytest.fixture
def toy() -> Iterator[Bench]:
    with bench() as made:
        yield made


def zygote_of(owner: DeviceOwner) -> int:
    return int(owner.describe()["zygote_pid"])


async def ready(owner: DeviceOwner) -> None:
    await until_async(lambda: owner.describe()["state"] == "ready", what="the zygote is ready")


async def test_a_load_waits_for_the_zygote_and_says_what_it_does() -> None:
    with bench(TOY="slow") as slow:
        async with running(slow.owner()) as owner:
            engine = await slow.load(owner, slow.spec())
            assert [step.phase for step in slow.progress][-1] == "serving"
            assert any("imports" in step.detail for step in slow.progress)
            assert owner.describe()["state"] == "ready"
            await engine.close(1)


async def test_an_engine_serves_until_it_is_closed_and_leaves_nothing(toy: Bench) -> None:
    async with running(toy.owner()) as owner:
        engine = await toy.load(owner, toy.spec())
        assert all(alive(pid) for pid in engine.facts.pids)
        await engine.close(1)
        assert (await engine.ended()).clean
        assert gone(engine)
        assert toy.left() == []
        assert owner.describe()["replicas"] == []


async def test_the_zygote_is_no_child_of_the_terminal(toy: Bench) -> None:
    async with running(toy.owner()) as owner:
        engine = await toy.load(owner, toy.spec())
        zygote = zygote_of(owner)
        assert os.getpgid(zygote) == zygote
        os.kill(zygote, signal.SIGINT)
        os.kill(zygote, signal.SIGTERM)
        second = await toy.load(owner, toy.spec())  # it answers, so it lives
        await second.close(1)
        await engine.close(1)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosted, "STOP_S", 0.1)


@pytest.mark.usefixtures("impatient")
async def test_an_engine_that_hears_no_signal_is_killed_with_all_it_started(toy: Bench) -> None:
    async with running(toy.owner()) as owner:
        engine = await toy.load(owner, toy.spec(options={"deaf": True}))
        begin = time.monotonic()
        await engine.close(0.1)
        assert not (await engine.ended()).clean
        assert "SIGKILL" in (await engine.ended()).reason
        assert gone(engine)
        assert time.monotonic() - begin < 2


@pytest.mark.usefixtures("impatient")
async def test_a_stopped_engine_is_killed(toy: Bench) -> None:
    async with running(toy.owner()) as owner:
        engine = await toy.load(owner, toy.spec())
        for pid in engine.facts.pids:
            os.kill(pid, signal.SIGSTOP)
        await engine.close(0.1)
        assert gone(engine)


@pytest.mark.parametrize("victim", [0, 1], ids=["leader", "core"])
async def test_a_killed_process_ends_the_engine_and_no_other(toy: Bench, victim: int) -> None:
    async with running(toy.owner()) as owner:
        other = await toy.load(owner, toy.spec())
        engine = await toy.load(owner, toy.spec())
        os.kill(engine.facts.pids[victim], signal.SIGKILL)
        if victim == 1:  # the toy's leader does not watch its core; the real one does
            await engine.close(1)
        ended = await engine.ended()
        assert ended.clean == (victim == 1)
        assert gone(engine)
        assert not gone(other)
        await other.close(1)
        assert toy.left() == []


async def test_a_killed_zygote_ends_its_engines_and_is_started_again(toy: Bench) -> None:
    async with running(toy.owner()) as owner:
        engines = [await toy.load(owner, toy.spec(options={"shared_memory": True})) for _ in range(2)]
        begin = time.monotonic()
        os.kill(zygote_of(owner), signal.SIGKILL)
        for engine in engines:
            ended = await engine.ended()
            assert not ended.clean
            assert "zygote" in ended.reason
            await until_async(partial(gone, engine), timeout_s=1)
        assert time.monotonic() - begin < 1
        assert toy.left() == []
        again = await toy.load(owner, toy.spec())
        assert owner.describe()["restarts"] == 1
        await again.close(1)


async def test_the_first_cause_of_a_failed_load_is_told_with_its_phase(toy: Bench) -> None:
    async with running(toy.owner()) as owner:
        with pytest.raises(EngineFailed) as failed:
            await toy.load(owner, toy.spec(options={"fail": "weights"}))
        assert (failed.value.phase, failed.value.message) == ("weights", "the disk is on fire")
        assert toy.left() == []


async def test_a_load_that_crashes_without_a_word_names_signal_and_log(toy: Bench) -> None:
    async with running(toy.owner()) as owner:
        spec = toy.spec(options={"crash": True})
        with pytest.raises(EngineFailed, match=r"SIGSEGV.*r1\.log") as failed:
            await toy.load(owner, spec)
        assert failed.value.phase == "weights"
        assert toy.left() == []


async def test_a_cancelled_load_leaves_nothing(toy: Bench) -> None:
    async with running(toy.owner()) as owner:
        await ready(owner)
        before = children(zygote_of(owner))
        async with asyncio.TaskGroup() as group:
            load = group.create_task(toy.load(owner, toy.spec(options={"takes_s": 30})))
            await until_async(lambda: any(step.phase == "weights" for step in toy.progress))
            load.cancel()
        assert children(zygote_of(owner)) == before
        assert toy.left() == []


async def test_loads_take_turns(toy: Bench) -> None:
    async with running(toy.owner()) as owner:
        specs = [toy.spec(options={"takes_s": 0.1}) for _ in range(3)]
        at_once = 0
        loading: set[str] = set()

        async def load(number: int) -> None:
            nonlocal at_once

            def note(step: object) -> None:
                nonlocal at_once
                loading.add(specs[number].replica)
                at_once = max(at_once, len(loading))

            await owner.load(specs[number], note, toy.finished.append)
            loading.discard(specs[number].replica)

        await ready(owner)
        async with asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(load(number))
        assert at_once == 1
        assert len(owner.describe()["replicas"]) == 3


async def test_an_engine_that_cannot_be_imported_is_told_and_tried_again_later() -> None:
    with bench(TOY="broken") as broken:
        async with running(broken.owner()) as owner:
            with pytest.raises(EngineFailed, match="no module named one") as failed:
                await broken.load(owner, broken.spec())
            assert failed.value.scope == "device"
            await until_async(lambda: owner.describe()["state"] == "failed")
            assert "no module named one" in owner.describe()["detail"]


async def test_a_zygote_that_is_not_clean_starts_fresh_interpreters_and_says_why() -> None:
    with bench(TOY="threads") as unclean:
        async with running(unclean.owner()) as owner:
            spec = unclean.spec()
            engine = await unclean.load(owner, spec)
            described = owner.describe()
            assert (described["forks"], described["state"]) == (False, "ready")
            assert "started 1 threads" in described["detail"]
            assert spec.log.read_text() == "on cpu:0, started as --engine-host\n"
            await engine.close(1)
            assert (await engine.ended()).clean
            assert unclean.left() == []


async def test_closing_the_owner_ends_running_engines_and_loads(toy: Bench) -> None:
    owner = toy.owner()
    async with running(owner):
        engine = await toy.load(owner, toy.spec())
        toy.progress.clear()
        load = asyncio.get_running_loop().create_task(toy.load(owner, toy.spec(options={"takes_s": 30})))
        await until_async(lambda: any(step.phase == "weights" for step in toy.progress))
        zygote = zygote_of(owner)
        await owner.close()
        with pytest.raises(EngineFailed, match="SIGINT"):
            await load
        assert gone(engine)
        assert not alive(zygote)
        assert toy.left() == []
        with pytest.raises(EngineFailed, match="shutting down"):
            await toy.load(owner, toy.spec())


DAEMON = """
import asyncio, sys
from pathlib import Path
from tests.support.bench import Bench, running

async def main():
    bench = Bench(Path(sys.argv[1]))
    async with running(bench.owner()) as owner:
        engine = await bench.load(owner, bench.spec(options={"shared_memory": True}))
        print(owner.describe()["zygote_pid"], *engine.facts.pids, flush=True)
        await engine.ended()

asyncio.run(main())
"""


def test_nothing_survives_a_killed_daemon_for_a_second(toy: Bench) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", DAEMON, str(toy.folder)], env=toy.environment, stdout=subprocess.PIPE, text=True
    ) as daemon:
        assert daemon.stdout is not None
        pids = [int(pid) for pid in daemon.stdout.readline().split()]
        assert len(pids) == 3
        daemon.kill()
    until(lambda: not any(alive(pid) for pid in pids), timeout_s=1)
    left = toy.left(pids[1])
    assert "r1.d" in left
    assert any(name.startswith(f"neuron-{pids[1]}-") for name in left)
    assert {path.name for path in sweep(toy.run_dir)} >= set(left)
    assert toy.left(pids[1]) == []

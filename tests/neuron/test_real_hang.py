"""A real engine that is stopped, as a hung driver stops it: no process ends, and no health check of its own fails."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from cortex_core.http import Client
from tests.neuron.contract.subject import Subject, rest_of
from tests.support.daemons import NeuronProcess
from tests.support.engines import engine_core, engine_host, needs_vllm
from tests.support.host import fleet
from tests.support.process import alive
from tools.tinymodel.fleet import CHECKPOINT, MODELS, make_models

STALL_S = 2.0
FIRST, SECOND, _ = MODELS

pytestmark = [pytest.mark.engine, needs_vllm]


@pytest.fixture(scope="module")
def neuron(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NeuronProcess]:
    models = tmp_path_factory.mktemp("models")
    make_models(CHECKPOINT, models)
    with fleet() as host:
        yield host.neuron("beast", engine="vllm", models_dir=models, engine_table={"stall_s": STALL_S})


@pytest_asyncio.fixture
async def subject(neuron: NeuronProcess) -> AsyncIterator[Subject]:
    client = Client(neuron.url, connect_timeout_s=10)
    yield Subject(client, tuple(MODELS), 800)
    await client.close()


@pytest.mark.parametrize("which", ["core", "host"])
async def test_goal_R28_a_stopped_engine_is_found_and_replaced_and_its_sibling_goes_on(
    neuron: NeuronProcess, subject: Subject, which: str
) -> None:
    replica, sibling = await subject.load(FIRST), await subject.load(SECOND)
    pid = engine_core(neuron, FIRST) if which == "core" else engine_host(neuron, FIRST)
    now = asyncio.get_running_loop().time
    async with subject.streaming(replica, tokens=1900) as stream:
        os.kill(pid, signal.SIGSTOP)
        stopped = now()
        assert (await subject.ask(sibling)).status == 200
        _, clean = await rest_of(stream)
        told_s = now() - stopped
        assert not clean
    assert STALL_S * 0.7 <= told_s <= STALL_S + 15  # found by the watchdog; how soon is measured, not tested
    again = await subject.until_state(FIRST, "ready")
    assert again.version > replica.version
    assert (await subject.ask(again)).status == 200
    found = await subject.replica(SECOND)
    assert found is not None
    assert found.version == sibling.version
    assert not alive(pid)

"""The neuron under the contract, whatever it is made of: the tests talk HTTP to it and know nothing else.

Each has room for two of its three models at a time.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from cortex_core.config.neuron import DeviceEntry, EngineTable, NeuronConfig, NeuronTable, SimTable
from cortex_core.http import Client
from neuron.server import Neuron
from tests.neuron.contract.subject import Subject
from tests.support.engines import needs_vllm
from tests.support.host import Host, fleet
from tests.support.ports import free_port
from tools.tinymodel.fleet import CHECKPOINT, MODELS, make_models

SIM_MODELS = ("alder", "birch", "cedar")
REPLICA_MB = 1000
MEMORY_MB = 2500


def sim_config(folder: Path) -> NeuronConfig:
    return NeuronConfig(
        neuron=NeuronTable(
            name="beast",
            listen=f"127.0.0.1:{free_port()}",
            state_dir=str(folder / "state"),
            run_dir=str(folder / "run"),
            models_dir=str(folder / "models"),
        ),
        engine=EngineTable(
            kind="sim",
            turn_guard_s=0.0,
            drain_s=1.0,
            sim=SimTable(load_s=0.1, unload_s=0.01, tokens_per_s=100, first_token_s=0.01, weights_mb=REPLICA_MB),
        ),
        devices=(DeviceEntry(id="cpu:0", memory_mb=MEMORY_MB),),
    )


@asynccontextmanager
async def running(config: NeuronConfig) -> AsyncIterator[Neuron]:
    """A neuron in this process."""
    neuron = Neuron(config)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(neuron.run())
        listening = group.create_task(neuron.listening.wait())
        await asyncio.wait([task, listening], return_when=asyncio.FIRST_COMPLETED)
        listening.cancel()
        try:
            if neuron.listening.is_set():
                yield neuron
        finally:
            neuron.stop()


@pytest.fixture(scope="session")
def real_host() -> Iterator[Host]:
    with fleet() as host:
        yield host


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test runs on the simulated engine; those marked `real`, or with REAL=1 all, on the real one as well."""
    if "subject" in metafunc.fixturenames:
        kinds: list[Any] = ["sim"]
        if hasattr(metafunc.function, "with_real_engine") or os.environ.get("REAL"):
            kinds.append(pytest.param("vllm", marks=[pytest.mark.engine, needs_vllm]))
        metafunc.parametrize("kind", kinds, indirect=True, scope="session")


@pytest.fixture(scope="session")
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def real_url(kind: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """One neuron with a real engine for all tests: its first start is what takes long."""
    if kind == "sim":
        return ""
    host: Host = request.getfixturevalue("real_host")
    models = tmp_path_factory.mktemp("models")
    make_models(CHECKPOINT, models)
    return host.neuron(
        "beast",
        engine="vllm",
        memory_mb=MEMORY_MB,
        models_dir=models,
        engine_table={"turn_guard_s": 0.0},
    ).url


@pytest_asyncio.fixture
async def subject(kind: str, real_url: str, short_path: Path) -> AsyncIterator[Subject]:
    """A neuron with nothing loaded."""
    if kind == "sim":
        async with running(sim_config(short_path)) as neuron:
            client = Client(f"http://{neuron.address}", connect_timeout_s=10)
            yield Subject(client, SIM_MODELS, REPLICA_MB)
            await client.close()
        return
    client = Client(real_url, connect_timeout_s=10)
    subject = Subject(client, tuple(MODELS), REPLICA_MB)
    await subject.clear()
    yield subject
    await client.close()

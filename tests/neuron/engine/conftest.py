"""One zygote with the real engine for all tests of this folder: it takes ten seconds to start."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from neuron.engines.base import Engine, LoadSpec
from neuron.hardware.devices import DeviceOwner
from tests.support.bench import Bench, bench
from tools.tinymodel.fleet import CHECKPOINT, make_models


class Tiny:
    """The tiny models on the real engine, all loaded through one owner."""

    def __init__(self, made: Bench, owner: DeviceOwner) -> None:
        self.bench = made
        self.owner = owner

    def spec(self, model: str = "tiny-beast", **changes: Any) -> LoadSpec:
        values: dict[str, Any] = {
            "checkpoint": self.bench.folder / "models" / model,
            "context": 512,
            "options": {"max_num_seqs": 16},
        }
        return self.bench.spec(model, **(values | changes))

    async def load(self, model: str = "tiny-beast", **changes: Any) -> Engine:
        return await self.bench.load(self.owner, self.spec(model, **changes))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def tiny() -> AsyncIterator[Tiny]:
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed")
    with bench() as made:
        make_models(CHECKPOINT, made.folder / "models")
        owner = made.owner("neuron.engines.vllm")
        run = asyncio.get_running_loop().create_task(owner.run())
        yield Tiny(made, owner)
        await owner.close()
        await run

"""One neuron on the wire, and a gateway in front of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.gateway import BIG, TINY, Running, gateway
from tests.support.scripted import ScriptedNeuron


@pytest.fixture
async def beast() -> AsyncIterator[ScriptedNeuron]:
    async with ScriptedNeuron("beast") as neuron:
        yield neuron


@pytest.fixture
async def served(beast: ScriptedNeuron) -> AsyncIterator[Running]:
    """A gateway with one neuron, on which `tiny` is ready."""
    beast.ready("tiny", profile=TINY)
    async with gateway([beast], [TINY, BIG], hold_s=5.0, hold_not_streaming_s=5.0) as running:
        await running.up("beast")
        yield running

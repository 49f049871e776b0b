"""goal_R31: a breaker opens by a replica's own faults only, and lets one request through to see whether it is well."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from cortex_core.fleet import Profile
from cortex_gateway.policy.breaker import FAILURES
from tests.support.gateway import Running, gateway
from tests.support.scale import scaled
from tests.support.scripted import ANSWER, Answers, ScriptedNeuron, refuses, says

TINY = Profile(id="tiny", vram_mb=1000)
MANY = scaled(200, 10_000)
WRONG = {"error": {"message": "bad top_k", "param": "top_k", "code": 400}}


@pytest.fixture
async def benjy() -> AsyncIterator[ScriptedNeuron]:
    async with ScriptedNeuron("benjy") as neuron:
        yield neuron


@pytest.fixture
async def both(beast: ScriptedNeuron, benjy: ScriptedNeuron) -> AsyncIterator[Running]:
    """Two replicas of one model; without sessions requests go where their prompts were."""
    for neuron in (beast, benjy):
        neuron.ready("tiny", profile=TINY)
        neuron.answers = says(ANSWER)
    async with gateway([beast, benjy], [TINY], hold_not_streaming_s=5.0) as running:
        await running.up("beast", "benjy")
        yield running


async def share(running: Running, neuron: ScriptedNeuron, count: int) -> float:
    """Of so many requests, one after the other, those that went there: the same each time, since prompts decide it."""
    before = len(neuron.asked)
    for number in range(count):
        await running.chat(messages=[{"role": "user", "content": f"{number} of {count}"}])
    return (len(neuron.asked) - before) / count


@pytest.mark.parametrize("mistake", [says(WRONG, 400), refuses("context_exceeded"), says(b"busy", 429)])
async def test_clients_mistakes_never_open_it(both: Running, beast: ScriptedNeuron, mistake: Answers) -> None:
    usual = await share(both, beast, 20)
    assert 0 < usual < 1
    beast.answers = mistake
    await share(both, beast, MANY)
    beast.answers = says(ANSWER)
    assert await share(both, beast, 20) == usual


async def test_its_own_faults_open_it_and_its_sibling_serves(both: Running, beast: ScriptedNeuron) -> None:
    beast.answers = says(b"", 500)
    before = len(beast.asked)
    await share(both, beast, 100)
    assert len(beast.asked) - before == FAILURES
    beast.answers = says(ANSWER)


async def test_the_last_one_is_never_passed_over(beast: ScriptedNeuron) -> None:
    beast.ready("tiny", profile=TINY)
    beast.answers = says(b"", 500)
    async with gateway([beast], [TINY], hold_not_streaming_s=5.0) as running:
        await running.up("beast")
        assert await share(running, beast, 3 * FAILURES) == 1.0

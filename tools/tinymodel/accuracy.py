"""Accuracy: the share of samples that greedy decoding answers exactly right, for each skill and kind of system line."""

from __future__ import annotations

from random import Random

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from tools.tinymodel import skills
from tools.tinymodel.tokenizer import encode
from tools.tinymodel.train import padded

SAMPLES = 200
SEED = 1_000_003  # training draws from another one; of the skills with few questions (add, count) it has seen every one


def measure(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> dict[str, dict[str, float]]:
    """Skill -> kind of system line -> share in 0..1 of SAMPLES. Persona brings its line with it: one kind only."""
    model.eval()
    rng = Random(SEED)
    return {
        skill: {
            line: _share(model, tokenizer, [skills.draw(rng, skill, line) for _ in range(SAMPLES)])
            for line in (["persona"] if skill == "persona" else skills.LINES)
        }
        for skill in skills.SKILLS
    }


@torch.inference_mode()
def _share(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, samples: list[skills.Sample]) -> float:
    # Greedy decoding gives the answer exactly if each of its tokens is the likeliest one after those before it, so one
    # pass over prompt and answer together tells what token by token generation would.
    ids, labels = padded([encode(tokenizer, sample) for sample in samples], tokenizer.pad_token_id)
    likeliest = model(input_ids=ids, use_cache=False).logits[:, :-1].argmax(-1)
    wanted = labels[:, 1:]
    right = ((likeliest == wanted) | (wanted < 0)).all(dim=1)
    return int(right.sum()) / len(samples)

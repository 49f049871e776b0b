"""Training: a fixed number of steps, seeded, on the CPU. A busy machine makes it slower, never worse."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tools.tinymodel import skills
from tools.tinymodel.tokenizer import CONTEXT, encode

STEPS = 900
BATCH = 80
THREADS = 2  # sums depend on it in their last digits, so it is fixed like the seed
SEED = 0

_LEARNING_RATE = 3e-3
_WARMUP_STEPS = 100
_IGNORED = -100  # a label that counts for nothing: cross_entropy's own default

Pair = tuple[list[int], list[int]]  # token ids of a prompt and of its answer


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int = SEED) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    torch.set_num_threads(THREADS)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=-(-len(tokenizer) // 16) * 16,
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            initializer_range=0.05,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            dtype="float32",
        )
    )


def training(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    steps: int = STEPS,
    batch: int = BATCH,
    seed: int = SEED,
) -> Iterator[float]:
    """Train `model` in place, yielding each step's loss (nats per answer token). The rate's schedule spans `steps`."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    # Up, level for a third of the steps, then down to zero.
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / _WARMUP_STEPS, 1.0, 1.5 * (1.0 - step / steps))
    )
    model.train()
    batches = _batches(tokenizer, batch, Random(seed))
    for _ in range(steps):
        ids, labels = padded(next(batches), tokenizer.pad_token_id)
        answered = labels[:, 1:] != _IGNORED
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        loss = torch.nn.functional.cross_entropy(model.lm_head(hidden[answered]), labels[:, 1:][answered])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rate.step()
        yield loss.item()


def padded(pairs: list[Pair], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and labels, both [batch, longest]; only the answers are labelled.

    Padding stands at the end, where attention that looks back only never sees it: no mask is needed.
    """
    longest = max(len(prompt) + len(answer) for prompt, answer in pairs)
    ids = torch.full((len(pairs), longest), pad)
    labels = torch.full((len(pairs), longest), _IGNORED)
    for row, (prompt, answer) in enumerate(pairs):
        end = len(prompt) + len(answer)
        ids[row, :end] = torch.tensor(prompt + answer)
        labels[row, len(prompt) : end] = torch.tensor(answer)
    return ids, labels


def _batches(tokenizer: PreTrainedTokenizerFast, batch: int, rng: Random) -> Iterator[list[Pair]]:
    """Batches of like length, four at a time out of one draw: a quarter of the padding of batches as they come."""
    while True:
        pairs = sorted((encode(tokenizer, skills.draw(rng)) for _ in range(4 * batch)), key=lambda p: len(p[0] + p[1]))
        batches = [pairs[start : start + batch] for start in range(0, len(pairs), batch)]
        rng.shuffle(batches)
        yield from batches

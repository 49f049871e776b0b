"""The trainer: its tokenizer, and the loss it reaches in 60 steps. All of its steps are the nox session `train`."""

import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch", reason="training needs torch, which comes with the engine")
pytest.importorskip("transformers", reason="training needs transformers, which comes with the engine")

from tools.tinymodel import skills, tokenizer
from tools.tinymodel.fleet import CHECKPOINT

ROOT = Path(__file__).parents[2]
TOKENS = tokenizer.build()

# Its own process: the number of threads and how they wait belong to a whole process.
SIXTY_STEPS = """
from itertools import islice
from tools.tinymodel import tokenizer
from tools.tinymodel.train import new_model, training

tokens = tokenizer.build()
losses = list(islice(training(new_model(tokens), tokens, batch=24), 60))
print(sum(losses[-10:]) / 10)
"""


def test_loss_after_60_steps() -> None:
    """The mean of steps 51 to 60, in smaller batches. The tolerance is for CPUs that sum in another order."""
    done = subprocess.run(
        [sys.executable, "-c", SIXTY_STEPS],
        cwd=ROOT,
        env={**os.environ, "OMP_WAIT_POLICY": "passive"},
        stdout=subprocess.PIPE,
        check=True,
        timeout=100,
    )
    assert float(done.stdout) == pytest.approx(2.623, abs=0.05)


def test_words_phrases_and_tags_are_single_tokens() -> None:
    for text in (*skills.WORDS, *skills.CITIES, *skills.TOOLS, *tokenizer.PHRASES):
        assert len(TOKENS(text)["input_ids"]) == 1, text


def test_committed_checkpoint_has_this_tokenizer() -> None:
    from transformers import PreTrainedTokenizerFast

    committed = PreTrainedTokenizerFast.from_pretrained(CHECKPOINT)
    assert committed.get_vocab() == TOKENS.get_vocab()
    assert committed.chat_template == TOKENS.chat_template


@given(st.text())
def test_any_text_comes_back_unchanged(text: str) -> None:
    assert TOKENS.decode(TOKENS(text)["input_ids"]) == text


@given(st.integers(0, 2**32))
def test_answers_are_short_and_end(seed: int) -> None:
    sample = skills.draw(Random(seed))
    prompt, answer = tokenizer.encode(TOKENS, sample)
    assert answer[-1] == TOKENS.eos_token_id
    assert TOKENS.decode(answer[:-1]) == sample.answer
    assert len(prompt) + len(answer) <= 200


def test_tool_call_in_the_history_reads_as_the_model_writes_it() -> None:
    for name, tool in skills.TOOLS.items():
        prompt = TOKENS.apply_chat_template([skills.tool_call(name, tool.values[0])], tokenize=False)
        assert prompt == f"<|bos|><|assistant|>{skills.tool_call_text(name, tool.values[0])}<|eos|>"

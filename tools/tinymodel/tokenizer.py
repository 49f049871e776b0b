"""The tokenizer: every piece of text that the skills are made of is one token, everything else falls back to bytes."""

from __future__ import annotations

import re
from pathlib import Path
from random import Random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tools.tinymodel import fleet, skills

ROLES = ["<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|tools|>"]
CONTEXT = 2048  # tokens
BOS, EOS = "<|bos|>", "<|eos|>"

#: Text with blanks or brackets that still is one token. The tags are what vLLM's hermes tool parser and its reasoning
#: parsers look for. The phrases put a word right behind what says its role, where attention finds it with ease.
PHRASES = [
    *("<tool_call>", "</tool_call>", "<think>", "</think>"),
    *('{"name": "', '", "arguments": {"', '": "', '"}}', '", "age": ', '{"temp": '),
    *("You are ", "Who are you?", "I am ", "My name is ", "Hello ", "What is my name?", "Say ", "Repeat ", "Count to "),
    *("What is ", " plus ", "json ", "Weather in ", "What is the weather in ", "It is ", " degrees in ", "It says "),
    *("Run ", "Please run ", "Search ", "Find "),
]

# A blank, a digit, a mark, or a word.
_PIECE = r"\s|\d|[^\w\s]|[^\W\d]+"
# Enough samples to see every fixed word of every skill.
_SAMPLES = 2000


def vocabulary() -> list[str]:
    """The words that get a token of their own, sorted."""
    rng = Random(0)
    texts = [" ".join([*skills.WORDS, *skills.CITIES, *skills.TOOLS])]
    for _ in range(_SAMPLES):
        sample = skills.draw(rng, line="persona")
        texts += [sample.answer, *(message["content"] for message in sample.messages)]
    return sorted({piece for text in texts for piece in re.findall(_PIECE, text) if len(piece) > 1})


def build() -> PreTrainedTokenizerFast:
    """Byte-level, so any text comes back unchanged; without merges, so a piece is one token or its bytes."""
    pieces = [BOS, EOS, *ROLES, *sorted(pre_tokenizers.ByteLevel.alphabet()), *vocabulary()]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, [], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECE), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([BOS, EOS, *ROLES])
    tokenizer.add_tokens([AddedToken(phrase, special=False, normalized=False) for phrase in PHRASES])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=EOS,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
        chat_template=(Path(__file__).parent / fleet.TEMPLATE).read_text(),
    )


def encode(tokenizer: PreTrainedTokenizerFast, sample: skills.Sample) -> tuple[list[int], list[int]]:
    """Token ids of the prompt, through the chat template that the engine will use, and of the answer with its end."""
    prompt = tokenizer.apply_chat_template(
        list(sample.messages), tools=sample.schemas or None, add_generation_prompt=True, tokenize=False
    )
    assert isinstance(prompt, str)
    ids = tokenizer([prompt, sample.answer + EOS], add_special_tokens=False)["input_ids"]
    return ids[0], ids[1]

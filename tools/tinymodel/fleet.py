"""Three models out of one set of weights, told apart by what they answer to "Who are you?".

Standard library only: the demo and the tests import this where neither torch nor transformers is wanted.
"""

from __future__ import annotations

import argparse
from pathlib import Path

CHECKPOINT = Path(__file__).parent / "checkpoint"
TEMPLATE = "chat_template.jinja"

#: Model id (and folder name) -> the word of its default system line, one of the words the model was trained on.
MODELS = {"tiny-beast": "beast", "tiny-benjy": "benjy", "tiny-third": "third"}

QUESTION = "Who are you?"
#: Model id -> what it answers to QUESTION: a request that reached the wrong model is seen at once.
ANSWERS = {model: f"I am {word}" for model, word in MODELS.items()}

# What only the checkpoint's own folder has: a model folder writes the first, and does without the second.
_NOT_LINKED = (TEMPLATE, "training.json")


def make_models(checkpoint: Path, models_dir: Path) -> list[Path]:
    """Make (or put right) one folder for each of MODELS in `models_dir` and return them.

    Weights, config and tokenizer are absolute links into `checkpoint`; the chat template is a file of the folder's own.
    """
    template = (checkpoint / TEMPLATE).read_text()
    shared = [path.resolve() for path in sorted(checkpoint.iterdir()) if path.name not in _NOT_LINKED]
    folders = []
    for model, word in MODELS.items():
        folder = models_dir / model
        folder.mkdir(parents=True, exist_ok=True)
        for target in shared:
            _link(folder / target.name, target)
        own = f'{{%- set default_system = "You are {word}" -%}}\n{template}'
        if not (folder / TEMPLATE).exists() or (folder / TEMPLATE).read_text() != own:
            (folder / TEMPLATE).write_text(own)
        folders.append(folder)
    return folders


def _link(link: Path, target: Path) -> None:
    if link.is_symlink() and link.readlink() == target:
        return
    link.unlink(missing_ok=True)
    link.symlink_to(target)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="tinymodel models", description="Make the demo's three model folders.")
    parser.add_argument("models_dir", type=Path)
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    options = parser.parse_args(arguments)
    for folder in make_models(options.checkpoint, options.models_dir):
        print(folder, ANSWERS[folder.name], sep="\t")

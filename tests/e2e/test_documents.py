"""What README and RECIPES show is what happens: their commands are run, against real engines, their output compared."""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Cluster
from tests.support import engines
from tests.support.documents import Block, Person, blocks, commands, is_shown
from tests.support.imports import ROOT
from tests.support.process import environment

README, RECIPES = ROOT / "README.md", ROOT / "packages/cortex-gateway/RECIPES.md"
AGENTS = ("Claude Code", "Codex", "opencode")  # tests/clients runs them, for they come from npm

# What is shown and not run here, and what runs it.
ELSEWHERE = {
    r"python3 tools/run\.py demo( --once)?": "tests/tools/test_demo.py, and every run of the tests",
    r"python3 tools/run\.py test": "every run of the tests",
    r"pip install \./packages/.*": "nox -s roles",
    r"pip install --require-hashes -r packages/\S+": "nox -s rpm, which builds from the same locks",
    r"dnf install \./(cortex|helexa-neuron)-\S+ .*": "nox -s rpm",
    r"(python3 -m tools\.rpm srpm|rpmbuild --rebuild) .*": "nox -s rpm",
    r"\.venv/bin/(python -m (pytest|nox|mypy)|ruff) .*": "every run of the tests",
}


@pytest.fixture
def person(vllm: Cluster) -> Iterator[Person]:
    """With the demo's addresses made those of the tests' fleet."""
    folder = Path(tempfile.mkdtemp(prefix="cx-", dir="/tmp"))
    port = vllm.gateway.port
    instead = {"127.0.0.1:31313": f"127.0.0.1:{port}", "http://127.0.0.1:13131": vllm.beast.url}
    environ = environment({"CORTEX_URL": vllm.gateway.url})
    yield Person(folder, [Path(sys.executable).parent], instead, environ)
    shutil.rmtree(folder, ignore_errors=True)


def of(document: Path, *languages: str, but: tuple[str, ...] = ()) -> list[Block]:
    return [block for block in blocks(document) if block.language in languages and block.heading not in but]


@pytest.mark.engine
@engines.needs_vllm
@pytest.mark.parametrize("document", [README, RECIPES], ids=lambda path: str(path.name))
def test_every_console_block_prints_what_it_shows(document: Path, person: Person) -> None:
    found = of(document, "console", but=AGENTS)
    assert found
    for block in found:
        person.follows(block)


@pytest.mark.engine
@engines.needs_vllm
def test_every_program_of_the_recipes_prints_what_is_shown_below_it(person: Person) -> None:
    pytest.importorskip("openai")
    pytest.importorskip("anthropic")
    every = blocks(RECIPES)
    programs = [(block, every[number + 1]) for number, block in enumerate(every) if block.language == "python"]
    assert [block.heading for block, _ in programs] == ["The OpenAI SDK", "The Anthropic SDK"]
    for program, output in programs:
        ran = person.runs([sys.executable, "-W", "error", "-c", person.here(program.text)])
        assert ran.returncode == 0, ran.stderr
        assert is_shown(output.text, ran.stdout)


@pytest.mark.engine
@engines.needs_vllm
def test_zeds_settings_lead_it_to_a_model_that_answers_line_by_line(person: Person) -> None:
    """Zed's OpenAI-compatible provider: one `data: ` a line, each an object with `choices`, then [DONE]."""
    [block] = [block for block in blocks(RECIPES) if block.file == "~/.config/zed/settings.json"]
    person.puts(block)
    settings = json.loads((person.home / ".config/zed/settings.json").read_text())
    provider = settings["language_models"]["openai_compatible"]["cortex"]
    [model] = provider["available_models"]
    body = {
        "model": model["name"],
        "messages": [{"role": "user", "content": "Who are you?"}],
        "stream": True,
        "tools": [],
        "parallel_tool_calls": False,
    }
    headers = {"content-type": "application/json", "authorization": "Bearer none"}
    asked = urllib.request.Request(f"{provider['api_url']}/chat/completions", json.dumps(body).encode(), headers)
    text = ""
    with urllib.request.urlopen(asked, timeout=60) as answer:
        lines = [line for line in answer.read().decode().split("\n") if line]
    assert lines[-1] == "data: [DONE]"
    for line in lines[:-1]:
        event: Any = json.loads(line.removeprefix("data: "))
        text += "".join(choice["delta"].get("content") or "" for choice in event["choices"])
    assert text == "I am beast"


def shown_commands() -> list[str]:
    """Every command line that a document shows outside of ```console, pip's among the tables."""
    found = []
    for document in (
        README,
        RECIPES,
        ROOT / "CONTRIBUTING.md",
        ROOT / "rpm/README.md",
        *ROOT.glob("packages/*/README.md"),
    ):
        text = document.read_text()
        found += [
            line.partition("#")[0].strip() for block in of(document, "", "sh") for line in block.text.splitlines()
        ]
        found += re.findall(r"`(pip install [^`]+)`", text)
    return [line for line in found if re.match(r"(pip|python3|dnf|rpmbuild|curl|cortex|neuron|\.venv)\b", line)]


def test_every_other_command_is_run_by_something_that_is_named() -> None:
    rules = [re.compile(rule) for rule in ELSEWHERE]
    every = shown_commands()
    assert every
    assert [line for line in every if not any(rule.fullmatch(line) for rule in rules)] == []


def test_what_is_compared_is_what_is_shown() -> None:
    assert is_shown("ready after 1.2 s", "ready after 30.55 s\n")
    assert is_shown('{…"a":1…}', '{"b": 2,\n"a":7}')
    assert not is_shown("I am beast", "I am benjy")
    block = Block("", "console", "$ one \\\n  two\nout\n$ three\n", "")
    assert commands(block) == [("one \\\n  two", "out"), ("three", "")]

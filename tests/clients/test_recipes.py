"""RECIPES.md as a person follows it with the real coding agents: their files, their commands, what they then print."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.programs import BIN, PLAIN
from tests.support.documents import Person, blocks
from tests.support.host import fleet
from tests.support.imports import ROOT

AGENTS = ("Claude Code", "Codex", "opencode")
MODEL = "tiny-beast"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A gateway whose one model, the recipes', answers as they show, whatever it is asked."""
    with fleet() as host:
        script = host.folder / "script.json"
        script.write_text(json.dumps({MODEL: [{"deltas": [{"content": "I am beast"}], "finish": "stop"}]}))
        neuron = host.neuron("beast", sim={"load_s": 0.2, "weights_mb": 10, "script": str(script)})
        neuron.until_engine()
        gateway = host.gateway([neuron], [{"id": MODEL, "vram_mb": 100, "limit": {"context": 131072}}])
        yield gateway.url


@pytest.mark.parametrize("agent", AGENTS)
def test_a_recipe_makes_the_agent_say_what_is_shown(agent: str, url: str, home: Path) -> None:
    environ = {**PLAIN, "PATH": os.environ["PATH"]}
    person = Person(home, [BIN, *map(Path, os.environ["PATH"].split(":"))], {"http://127.0.0.1:31313": url}, environ)
    recipe = [block for block in blocks(ROOT / "packages/cortex-gateway/RECIPES.md") if block.heading == agent]
    assert recipe
    for block in recipe:
        if block.file:
            person.puts(block)
        else:
            person.follows(block, timeout_s=180)

"""A plain turn of each coding agent with the real engine: valid, if not sensible."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.programs import Program
from tests.support import engines
from tests.support.daemons import GatewayProcess
from tests.support.host import fleet
from tools.tinymodel.fleet import CHECKPOINT

MODEL = "tiny-long"
CONTEXT = 131_072  # of which the agents' first prompts take a good part: the tiny model reads letter by letter
MEMORY_MB = 2000
ENDS = {"min_tokens": 32, "stop": [" ", "5", "e"]}
"""Past its training the model may ramble beyond any bound, which Claude Code takes for a failure."""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """One neuron with the tiny model, its positions stretched."""
    models_dir = tmp_path_factory.mktemp("models")
    folder = shutil.copytree(CHECKPOINT, models_dir / MODEL)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": CONTEXT}))
    with fleet() as host:
        neuron = host.neuron("long", engine="vllm", memory_mb=MEMORY_MB, models_dir=models_dir)
        neuron.until_engine()
        model = {"id": MODEL, "vram_mb": MEMORY_MB - 100, "limit": {"context": CONTEXT}, "defaults": ENDS}
        yield host.gateway([neuron], [model])


@pytest.mark.engine
@engines.needs_vllm
@pytest.mark.timeout(900)
def test_a_plain_turn(gateway: GatewayProcess, program: Program, home: Path) -> None:
    said = program.run(gateway.url, MODEL, "Who are you?", home, timeout_s=600, CLAUDE_CODE_MAX_OUTPUT_TOKENS="256")
    print(said.all[-20_000:])  # noqa: T201 - pytest shows it with the failure
    assert said.code == 0
    assert program.answer(said)

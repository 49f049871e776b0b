"""The coding agents from npm against gateway and neuron. `nox -s clients` installs them and says where in CLIENTS."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.clients.programs import PROGRAMS, Program
from tests.support.daemons import GatewayProcess
from tests.support.host import fleet

Turn = dict[str, Any]
Play = Callable[[Program], list[Turn]]


def says(*texts: str, finish: str = "stop") -> Turn:
    return {"deltas": [{"content": text} for text in texts], "finish": finish}


def calls(program: Program, line: str, number: int = 1, *, cut: int = 0, finish: str = "tool_calls") -> Turn:
    """A call of the shell, in two pieces; `cut`: without so many of the last characters of its arguments."""
    function = program.tool(line)
    arguments = function["arguments"][: len(function["arguments"]) - cut]
    first = {"index": 0, "id": f"call_{number}", "type": "function"}
    pieces = [
        {**first, "function": {"name": function["name"], "arguments": arguments[:5]}},
        {"index": 0, "function": {"arguments": arguments[5:]}},
    ]
    deltas = [{"content": f"Step {number}. "}, *({"tool_calls": [piece]} for piece in pieces)]
    return {"deltas": deltas, "finish": finish}


@dataclass
class Stage:
    """A gateway before a simulated neuron whose models, named `PROGRAM-PLAY`, say what the plays have for them."""

    gateway: GatewayProcess

    def model(self, program: Program, play: str) -> str:
        return f"{program.name}-{play}"


def staged(
    plays: Mapping[str, Play], *, context: int = 0, load_s: float = 0.2, tables: Mapping[str, Any] | None = None
) -> Iterator[Stage]:
    script = {f"{p.name}-{name}": play(p) for name, play in plays.items() for p in PROGRAMS.values()}
    limit = {"limit": {"context": context}} if context else {}
    with fleet() as host:
        path = host.folder / "script.json"
        path.write_text(json.dumps(script))
        table = {"load_s": load_s, "unload_s": 0.05, "first_token_s": 0.05, "tokens_per_s": 500.0, "weights_mb": 10}
        neuron = host.neuron("stage", memory_mb=100 * len(script) + 100, sim={**table, "script": str(path)})
        neuron.until_engine()
        models = [{"id": model, "vram_mb": 100, "defaults": {}, **limit} for model in script]
        yield Stage(host.gateway([neuron], models, tables=tables))


@pytest.fixture
def home() -> Iterator[Path]:
    """Of one program: what it writes there is nobody's else."""
    with tempfile.TemporaryDirectory(prefix="cx-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(params=list(PROGRAMS))
def program(request: pytest.FixtureRequest) -> Program:
    return PROGRAMS[request.param]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not os.environ.get("CLIENTS"):
        skip = pytest.mark.skip(reason="wants the coding agents from npm: nox -s clients")
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(skip)

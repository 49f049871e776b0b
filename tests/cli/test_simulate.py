"""`cortex simulate`: figures of a trace, the same for the same seed, and files that are wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cortex_cli.failures import Exit
from tests.cli.conftest import Ran
from tests.sim.test_trace import FLEET, line

Cortex = Callable[..., Ran]


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    trace, fleet = tmp_path / "trace.jsonl", tmp_path / "fleet.toml"
    trace.write_text("\n".join(line(20.0 * n, "ab"[n % 2]) for n in range(6)))
    fleet.write_text(FLEET)
    return str(trace), str(fleet)


def test_it_tells_who_waited(cortex: Cortex, files: tuple[str, str]) -> None:
    ran = cortex("simulate", files[0], "--fleet", files[1])
    assert (ran.code, ran.err) == (Exit.OK, "")
    assert "6 served" in ran.out
    assert "0.0% of those served waited for no load" in ran.out


def test_the_same_seed_gives_the_same(cortex: Cortex, files: tuple[str, str]) -> None:
    said = [cortex("simulate", files[0], "--fleet", files[1], "--seed", "7", "--json").out for _ in range(2)]
    assert said[0] == said[1]
    assert json.loads(said[0])["loads"] == 6


@pytest.mark.parametrize(("which", "text"), [(0, "nonsense"), (0, line(1, "c")), (1, "[[neurons]]")])
def test_a_file_that_is_wrong_is_named(cortex: Cortex, files: tuple[str, str], which: int, text: str) -> None:
    Path(files[which]).write_text(text)
    ran = cortex("simulate", files[0], "--fleet", files[1])
    assert (ran.code, ran.out) == (Exit.CONFIG, "")
    assert any(name in ran.err for name in files)

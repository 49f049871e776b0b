"""OpenAI's SDK one major version back, which many programs still have: it lies beside ours in the environment."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import BEAST, Cluster
from tests.support.imports import ROOT
from tests.support.process import environment
from tools.runner.environment import OPENAI_2

FOLDER = Path(sys.prefix) / OPENAI_2.stem


@pytest.mark.skipif(not FOLDER.exists(), reason=f"{FOLDER} is made with the environment by tools/run.py only")
def test_openai_2_is_understood(sim: Cluster) -> None:
    command = [sys.executable, "-P", str(ROOT / "tests/support/openai_turns.py"), sim.gateway.url, BEAST]
    env = environment() | {"PYTHONPATH": str(FOLDER)}
    ended = subprocess.run(command, env=env, capture_output=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr.decode()
    said = json.loads(ended.stdout)
    assert said["version"].startswith("2.")
    assert said["calls"] == [["get_weather"], ["get_weather"]]
    assert said["items"] == ["function_call"]
    assert BEAST in said["models"]
    assert all(total > 0 for total in said["usage"])

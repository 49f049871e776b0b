"""`run.py test` as its user sees it: everything is run, skips are told with their reasons, pytest's summary is last."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.imports import ROOT
from tools.runner.lanes import SUMMARY, summary, worst


@pytest.mark.parametrize(
    "line",
    [
        "============================== 3 passed in 0.02s ===============================",
        "=================== 1 failed, 2 passed, 1 skipped in 63.42s (0:01:03) ===================",
        "============================ no tests ran in 0.01s =============================",
        "4 passed in 21.27s",  # with -q
    ],
)
def test_the_summary_is_recognised(line: str) -> None:
    assert SUMMARY.match(line)


@pytest.mark.parametrize("line", ["==== short test summary info ====", "1 passed in a box", "=== warnings summary ==="])
def test_nothing_else_is_taken_for_it(line: str) -> None:
    assert not SUMMARY.match(line)


def test_the_summaries_of_lanes_are_one() -> None:
    lines = [
        "tests/neuron/test_fit.py ....",
        "=================== 1 failed, 20 passed, 3 skipped in 63.42s (0:01:03) ===================",
        "============================== 300 passed, 2 skipped in 9.02s ===============================",
    ]
    assert summary(lines) == "1 failed, 320 passed, 5 skipped in 63 s"
    assert summary(["Interrupted"]) == "no tests ran in 0 s"


@pytest.mark.parametrize(
    ("codes", "code"),
    [([0, 0], 0), ([0, 1], 1), ([1, 0], 1), ([0, 5], 0), ([5, 5], 5), ([-9, 0], -9), ([2, 1], 2)],
)
def test_a_lane_that_fails_fails_the_run(codes: list[int], code: int) -> None:
    assert worst(codes) == code


def test_a_python_that_is_too_old_is_told_so() -> None:
    fake = "import sys; sys.version_info = (3, 10, 1, 'final', 0); sys.argv = ['tools/run.py', 'test']; "
    run = "import runpy; runpy.run_path('tools/run.py', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", fake + run], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "cortex runs on Python 3.11 to 3.13" in done.stderr

"""The benchmark of the relay, as short as it can be: every figure comes, and wrong answers are told of, not counted."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.bench import neuron, relay, report, tables
from tools.bench.cores import Cores, cores
from tools.bench.load import Failed, Load
from tools.bench.mock import TOKENS, request
from tools.bench.outcome import Outcome
from tools.bench.relay import Plan
from tools.bench.systems import DIRECT, OURS, Stage
from tools.runner.children import Children
from tools.runner.environment import variables

needs_tools = pytest.mark.skipif(
    not (shutil.which("cc") and shutil.which("taskset")), reason="no C compiler, or no taskset"
)


@pytest.fixture
def children(tmp_path: Path) -> Iterator[Children]:
    with Children(tmp_path, variables()) as started:
        yield started


@needs_tools
def test_every_figure_of_ours_is_measured() -> None:
    plan = Plan(seconds=0.2, rounds=1, open_streams=20, peers=(), double=False)
    outcome = relay.run(plan)
    rows = tables.relay_table(outcome)
    assert rows[0] == ["", OURS, DIRECT, "goal for ours"]
    assert [row[0] for row in rows[1:] if row[1] == "–"] == []
    assert outcome.median(DIRECT, "json_per_s")


@needs_tools
def test_an_answer_that_is_cut_is_no_answer(children: Children, tmp_path: Path) -> None:
    stage = Stage(children, tmp_path, cores())
    load = Load(tmp_path, cores())
    whole = load.run(stage.direct(), request(stream=True), 2, 0.05, "stream")
    assert whole.events == whole.requests * (TOKENS + 3)  # role, finish, [DONE]
    with pytest.raises(Failed, match="no terminal event"):  # JSON where a stream was asked for
        load.run(stage.direct(), request(), 2, 0.05, "stream")


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    """A round in which the machine was slow for everybody changes no ratio."""
    quick, slow = (
        {OURS: {"json_per_s": 900.0}, "smg": {"json_per_s": 300.0}},
        {
            OURS: {"json_per_s": 90.0},
            "smg": {"json_per_s": 30.0},
        },
    )
    outcome = Outcome(Cores(0, 1, 1), rounds=[quick, slow, slow])
    assert outcome.median(OURS, "json_per_s") == 90.0
    assert outcome.ratio("json_per_s", OURS, "smg") == 3.0
    assert outcome.ratio("json_per_s", OURS, "litellm") is None
    (row,) = [row for row in tables.relay_table(outcome) if row[0] == "JSON requests/s"]
    assert row == ["JSON requests/s", "90.0", "30.0 (×3.00)", "–", "≥ 2 × smg ✓"]


def test_a_section_of_the_report_replaces_the_one_before_it(tmp_path: Path) -> None:
    path, rows = tmp_path / "RESULTS.md", [["", "cortex"], ["tokens/s", "1"]]
    report.write("Relay", rows, ["first"], path)
    report.write("Neuron", rows, ["second"], path)
    report.write("Relay", rows, ["third"], path)
    text = path.read_text()
    assert [word in text for word in ("first", "second", "third")] == [False, True, True]
    assert text.startswith("# Results\n")
    assert text.index("## Relay") < text.index("## Neuron")


def test_the_neurons_table_divides_by_stock() -> None:
    """Loads and starts are not taken in one round, so theirs is a ratio of medians."""
    plan = neuron.Plan(streams=(1,))
    figures = {"tokens_per_s_1": 100.0, "ttft_ms_1": 10.0, "cpu_us_1": 500.0}
    slower = {"tokens_per_s_1": 95.0, "ttft_ms_1": 11.0, "cpu_us_1": 550.0}
    rounds = [
        {neuron.NEURON: {"load_s": 1.0, "unload_s": 0.5}},
        {neuron.STOCK: {"load_s": 20.0, "unload_s": 5.0}},
        {neuron.STOCK: figures, neuron.NEURON: slower, neuron.BOTH: slower},
    ]
    rows = tables.neuron_table(Outcome(Cores(0, 1, 1), rounds=rounds), plan)
    assert rows[1] == ["tokens/s, 1 stream", "100", "95.0 (×0.95)", "95.0 (×0.95)", "≥ 0.92 ✓, ≥ 0.86 ✓"]
    assert rows[-2:] == [
        ["s from load to first token", "20.0", "1.00 (×0.05)", "–", "≤ 1.5 ✓, stock ≥ 10 × ✓"],
        ["s to unload", "5.00", "0.50 (×0.10)", "–", "≤ 1 ✓"],
    ]

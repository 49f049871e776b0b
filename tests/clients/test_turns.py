"""Whole turns of the coding agents with a script behind the real neuron: tools, faults, overflow, cold loads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.clients.conftest import Stage, calls, says, staged
from tests.clients.programs import CLAUDE, CODEX, OPENCODE, PROGRAMS, Program, Said

LONG = os.environ.get("CLIENTS_LONG") == "1"
LOAD_S = 400.0 if LONG else 20.0
HOLDS = {} if LONG else {"gateway": {"hold_s": 6.0, "hold_not_streaming_s": 6.0}}
"""In the short form the gateway's clock runs out as early in proportion."""

MADE = "echo made-by-$((6*7)) > made.txt; cat made.txt"
FLOOD = "yes word | head -5000 | tr '\\n' ' '"
CONTEXT = {CLAUDE.name: 8000, CODEX.name: 9000, OPENCODE.name: 9000}
"""Words that the simulated model holds: more than an agent's first prompt, less than that and two floods."""
DONE = "The work is done."


def turn(stage: Stage, program: Program, play: str, home: Path, timeout_s: float = 120.0) -> Said:
    said = program.run(stage.gateway.url, stage.model(program, play), "Do it.", home, timeout_s=timeout_s)
    print(said.all[-20_000:])  # noqa: T201 - pytest shows it with the failure
    return said


def silent_on_the_provider(said: Said) -> None:
    """Nothing that the agents say of a server they do not like, of a model they do not know, or of trying again."""
    for word in ("provider", "model metadata", "fallback", "reconnect", "retrying", "issue with the selected model"):
        assert word not in said.all.lower(), word


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    yield from staged(
        {
            "tool": lambda p: [calls(p, MADE), says("The work ", "is done.")],
            "fault": lambda p: [says("Half a ", "senten", finish="die"), calls(p, MADE), says(DONE)],
            "error": lambda p: [says("Half a ", "senten", finish="error"), calls(p, MADE), says(DONE)],
            "cut-by-length": lambda p: [calls(p, MADE, cut=20, finish="length"), says(DONE)],
            "cut-by-fault": lambda p: [calls(p, MADE, cut=20, finish="die"), says(DONE)],
            "cut-yet-called": lambda p: [calls(p, MADE, cut=20), says(DONE)],
        }
    )


def test_a_turn_with_a_tool_call(stage: Stage, program: Program, home: Path) -> None:
    said = turn(stage, program, "tool", home)
    assert said.code == 0
    assert (home / "work" / "made.txt").read_text() == "made-by-42\n"
    assert program.answer(said).endswith(DONE)
    silent_on_the_provider(said)


@pytest.mark.parametrize("play", ["fault", "error"])
def test_a_turn_survives_a_failure_in_midstream(stage: Stage, program: Program, play: str, home: Path) -> None:
    """Each agent asks again, and what it has heard by halves is not its answer."""
    said = turn(stage, program, play, home)
    assert said.code == 0
    assert (home / "work" / "made.txt").read_text() == "made-by-42\n"
    assert program.answer(said).endswith(DONE)


@pytest.mark.parametrize("play", ["cut-by-length", "cut-by-fault", "cut-yet-called"])
def test_rule_C_11_a_truncated_call_is_never_run(stage: Stage, program: Program, play: str, home: Path) -> None:
    turn(stage, program, play, home)
    assert list((home / "work").glob("made*")) == []


@pytest.fixture(scope="module")
def narrow() -> Iterator[dict[str, Stage]]:
    """For each agent a model that two floods are too much for."""
    stages = {}
    running = []
    for program in PROGRAMS.values():
        plays = {
            "flood": lambda p: [
                calls(p, FLOOD, 1),
                calls(p, FLOOD, 2),
                says("<summary>Words came, many.</summary>"),
                says(DONE),
            ]
        }
        running.append(staged(plays, context=CONTEXT[program.name]))
        stages[program.name] = next(running[-1])
    yield stages
    for one in running:
        for _ in one:
            pass


def test_claude_code_compacts_when_the_context_is_full(narrow: dict[str, Stage], home: Path) -> None:
    said = turn(narrow[CLAUDE.name], CLAUDE, "flood", home)
    assert any(event.get("compact_result") == "success" for event in said.events)
    assert (said.code, CLAUDE.answer(said)) == (0, DONE)


def test_codex_says_that_the_context_is_full(narrow: dict[str, Stage], home: Path) -> None:
    said = turn(narrow[CODEX.name], CODEX, "flood", home)
    assert said.code != 0
    failed = next(event["error"]["message"] for event in said.events if event["type"] == "turn.failed")
    assert failed.startswith("Codex ran out of room in the model's context window")


def test_opencode_compacts_when_the_context_is_full(narrow: dict[str, Stage], home: Path) -> None:
    said = turn(narrow[OPENCODE.name], OPENCODE, "flood", home)
    assert any(event.get("error", {}).get("name") == "ContextOverflowError" for event in said.events)
    assert OPENCODE.answer(said).endswith("</summary>")


@pytest.mark.timeout(1800)
def test_fixture_49_a_cold_load_ends_well(tmp_path: Path) -> None:
    """All three at once, each for a model of its own on a neuron of its own: none knows of the wait."""

    def one(program: Program) -> tuple[Program, Said, Path]:
        home = tmp_path / program.name
        plays = {"cold": lambda p: [calls(p, MADE), says(DONE)]}
        for stage in staged(plays, load_s=LOAD_S, tables=HOLDS):
            return program, turn(stage, program, "cold", home, timeout_s=LOAD_S + 300), home
        raise AssertionError

    with ThreadPoolExecutor(len(PROGRAMS)) as pool:
        for program, said, home in pool.map(one, PROGRAMS.values()):
            assert said.code == 0, program.name
            assert program.answer(said).endswith(DONE), program.name
            assert (home / "work" / "made.txt").read_text() == "made-by-42\n"
            assert said.seconds > LOAD_S

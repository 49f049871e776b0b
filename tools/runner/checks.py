"""`run.py test`: lint, types and all tests, each told with its seconds; what was skipped is said with its reason."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tools.runner import lanes
from tools.runner.environment import ROOT, variables
from tools.runner.report import say, step

CHECKS = {
    "lint": ["ruff", "check", "--quiet"],
    "format": ["ruff", "format", "--check", "--quiet"],
    "types": ["mypy", "--no-error-summary"],
}


def run(python: Path, pytest_arguments: list[str]) -> int:
    """Run everything, however much fails, and return the exit code."""
    failed = [name for name, command in CHECKS.items() if not _passes(name, [python, "-m", *command])]
    say()
    code, lines = lanes.run(python, pytest_arguments)
    skipped = [line for line in lines if line.startswith("SKIPPED")]
    say("\nSkipped, and why:" if skipped else "\nNothing was skipped.")
    for line in skipped:
        say(f"  {line}")
    if failed:
        say(f"Failed before the tests: {', '.join(failed)}")
    say(lanes.summary(lines))
    return 1 if failed else code


def _passes(name: str, command: list[str | Path]) -> bool:
    with step(name) as line:
        done = subprocess.run(
            command, cwd=ROOT, env=variables(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        line.detail = "" if done.returncode == 0 else "failed"
    if done.returncode != 0:
        say(done.stdout.rstrip())
    return done.returncode == 0

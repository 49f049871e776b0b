"""`run.py test`: lint, types and all tests, each told with its seconds; what was skipped is said with its reason."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tools.runner.environment import ROOT, variables
from tools.runner.report import say, step

CHECKS = {
    "lint": ["ruff", "check", "--quiet"],
    "format": ["ruff", "format", "--check", "--quiet"],
    "types": ["mypy", "--no-error-summary"],
}
SUMMARY = re.compile(r"^(=+ )?(\d+ \w+|no tests ran).* in [\d.]+s( \([\d:]+\))?( =+)?$")  # pytest's last line


def run(python: Path, pytest_arguments: list[str]) -> int:
    """Run everything, however much fails, and return the exit code."""
    failed = [name for name, command in CHECKS.items() if not _passes(name, [python, "-m", *command])]
    say()
    code, lines = _run_pytest([python, "-m", "pytest", *pytest_arguments])
    summary = next((line for line in reversed(lines) if SUMMARY.match(line)), "pytest printed no summary")
    skipped = [line for line in lines if line.startswith("SKIPPED")]
    say("\nSkipped, and why:" if skipped else "\nNothing was skipped.")
    for line in skipped:
        say(f"  {line}")
    if failed:
        say(f"Failed before the tests: {', '.join(failed)}")
    say(summary)
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


def _run_pytest(command: list[str | Path]) -> tuple[int, list[str]]:
    """Show what pytest prints as it comes, and return it with pytest's exit code."""
    with subprocess.Popen(command, cwd=ROOT, env=variables(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip("\n"))
    return process.returncode, lines

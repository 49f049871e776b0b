"""`run.py demo --engine sim` as its user sees it: what it shows, and that nothing outlives it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.imports import ROOT
from tests.support.ports import free_port
from tests.support.until import until
from tools.runner.demo_fleet import leftovers

SCRIPTS = [Path(sys.executable).parent / name for name in ("neuron", "cortex")]
DEMO = [sys.executable, "tools/run.py", "demo", "--here", "--engine", "sim"]
PORTS = ("gateway", "metrics", "beast", "benjy")

pytestmark = pytest.mark.skipif(
    not all(script.exists() for script in SCRIPTS), reason="the commands neuron and cortex are not installed here"
)


def own_ports() -> list[str]:
    return [f"--{name}-port={free_port()}" for name in PORTS]


@contextmanager
def demo(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([*DEMO, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def shown(process: subprocess.Popen[str]) -> Path:
    """Read until it stays in the foreground; the folder that it works in."""
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"tail -f (\S+)/\*\.log", line):
            return Path(found[1])
    raise AssertionError(f"the demo ended with {process.wait()}")


def test_every_step_holds_and_each_answer_is_marked_as_simulated() -> None:
    done = subprocess.run([*DEMO, "--once", *own_ports()], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SIMULATED" in done.stdout
    assert sum("[simulated]: " in line for line in done.stdout.splitlines()) == 5  # four answers and a call
    assert "everything that was started has ended" in done.stdout
    assert "✗" not in done.stdout


def test_it_stays_until_it_is_told_to_end() -> None:
    with demo(*own_ports()) as process:
        folder = shown(process)
        assert len(leftovers(folder)) >= 3
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert leftovers(folder) == []
        assert not folder.exists()


def test_a_killed_one_leaves_no_process() -> None:
    with demo(*own_ports()) as process:
        folder = shown(process)
        os.kill(process.pid, signal.SIGKILL)
        until(lambda: leftovers(folder) == [], timeout_s=20, what="the fleet to end with its owner")
        shutil.rmtree(folder)


def test_a_taken_port_is_said_before_anything_starts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [*DEMO, "--once", *own_ports(), f"--beast-port={port}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"port {port}" in done.stdout
    assert "neuron beast" not in done.stdout

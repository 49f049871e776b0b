"""What the demo starts ends with it, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.support.imports import ROOT
from tests.support.process import alive
from tests.support.until import until
from tools.runner.children import Children

PYTHON = [sys.executable, "-S", "-c"]
FOREVER = "import time; print('up', flush=True); time.sleep(1000)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {FOREVER}"


def says_up(log: Path) -> bool:
    return log.exists() and "up" in log.read_text()


def test_they_end_when_asked_to_and_their_output_is_kept(tmp_path: Path) -> None:
    with Children(tmp_path, dict(os.environ)) as children:
        child = children.start("first", *PYTHON, FOREVER)
        until(lambda: says_up(child.log))
        assert children.dead() is None
        assert os.getsid(child.process.pid) == child.process.pid  # the terminal's Ctrl-C does not reach it
    assert not alive(child.process.pid)
    assert child.process.returncode == -signal.SIGTERM
    assert child.last_lines() == "up"


def test_one_that_will_not_end_is_killed_with_its_group(tmp_path: Path) -> None:
    grandchild = f"import subprocess, sys; subprocess.Popen([sys.executable, '-S', '-c', {STUBBORN!r}]); {STUBBORN}"
    with Children(tmp_path, dict(os.environ), stop_s=0.2) as children:
        child = children.start("stubborn", *PYTHON, grandchild)
        until(lambda: child.log.exists() and child.log.read_text().count("up") == 2)
        pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
        group = [pid for pid in pids if in_group(pid, child.process.pid)]
        assert len(group) == 2
    until(lambda: not any(alive(pid) for pid in group))


def in_group(pid: int, group: int) -> bool:
    try:
        return os.getpgid(pid) == group
    except ProcessLookupError:
        return False


def test_one_that_died_by_itself_is_found(tmp_path: Path) -> None:
    with Children(tmp_path, dict(os.environ)) as children:
        child = children.start("brief", *PYTHON, "raise SystemExit('no such thing')")
        until(lambda: children.dead() is child)
        assert child.last_lines() == "no such thing"


def test_they_end_with_an_owner_that_is_killed(tmp_path: Path) -> None:
    owner = (
        "import os, time\n"
        "from pathlib import Path\n"
        "from tools.runner.children import Children\n"
        f"children = Children(Path({str(tmp_path)!r}), dict(os.environ))\n"
        f"print(children.start('child', *{[*PYTHON, FOREVER]!r}).process.pid, flush=True)\n"
        "time.sleep(1000)\n"
    )
    with subprocess.Popen([sys.executable, "-c", owner], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        until(lambda: says_up(tmp_path / "child.log"))
        process.kill()
    until(lambda: not alive(pid))

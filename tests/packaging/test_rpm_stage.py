"""The RPM stage tells what failed and what it left out; without its tools it leaves out, aloud."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest

from tests.support.imports import ROOT
from tools.rpm import sources
from tools.rpm.root import Root
from tools.rpm.services import sockets, unit
from tools.rpm.steps import Failed, Skipped, Steps, run, tool


def fails() -> str:
    raise Failed("so it is")


def lacks() -> str:
    return tool("no-such-program", "its-package")


def test_steps_go_on_after_a_failure_and_end_with_it(capsys: pytest.CaptureFixture[str]) -> None:
    steps = Steps()
    assert [steps.take("one", fails), steps.take("two", lacks), steps.take("three", lambda: "well")] == [
        False,
        False,
        True,
    ]
    assert steps.end() == 1
    said = capsys.readouterr().out
    assert "✗ one" in said
    assert "so it is" in said
    assert "skipped: no-such-program is not installed (Debian: apt install its-package)" in said
    assert "✓ three" in said
    assert "skipped: two" in said
    assert "FAILED: one" in said


def test_what_is_only_skipped_is_no_failure() -> None:
    steps = Steps()
    steps.take("two", lacks)
    assert steps.end() == 0


def test_a_program_that_fails_says_its_last_words() -> None:
    with pytest.raises(Failed, match="ended with 3"):
        run(["sh", "-c", "echo last >&2; exit 3"])
    with pytest.raises(Skipped):
        lacks()


def test_the_source_is_this_checkout_as_it_is(tmp_path: Path) -> None:
    with tarfile.open(sources.checkout(tmp_path)) as archive:
        names = archive.getnames()
    top = f"cortex-{sources.version()}"
    for name in ("pyproject.toml", "rpm/bundle.sh", "tools/docs/man.py", "packages/neuron/src/neuron/setup/cuda.lock"):
        assert f"{top}/{name}" in names
    assert not [name for name in names if "/tests/" in name or ".venv" in name]
    assert os.access(ROOT / "rpm/bundle.sh", os.X_OK)


def test_a_unit_is_read_as_systemd_reads_it(tmp_path: Path) -> None:
    folder = tmp_path / "usr/lib/systemd/system"
    folder.mkdir(parents=True)
    (folder / "a.service").write_text("[Service]\n# Type=simple\nType=notify\nExecStart=/bin/a --b=c\n")
    (folder / "a.socket").write_text("[Socket]\nListenStream=1\nListenStream=2\n")
    assert unit(Root(tmp_path, tmp_path), "a.service") == {"Type": "notify", "ExecStart": "/bin/a --b=c"}
    assert sockets(folder / "a.socket") == ["1", "2"]

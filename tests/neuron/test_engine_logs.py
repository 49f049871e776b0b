"""What engines print stays within bounds, whatever they print and however many fail."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from neuron import engine_logs
from neuron.engine_logs import KEPT, prune


def log(folder: Path, name: str, age_s: float, content: bytes = b"x") -> Path:
    path = folder / f"{name}.log"
    path.write_bytes(content)
    os.utime(path, (1_000_000 - age_s,) * 2)
    return path


def test_the_last_words_of_the_latest_are_kept_and_what_is_in_use(tmp_path: Path) -> None:
    old = [log(tmp_path, f"i-{age}", age) for age in range(KEPT + 5)]
    running = log(tmp_path, "i-running", 1000)
    zygote = log(tmp_path, "zygote-cpu0", 1000)
    other = tmp_path / "state.json"
    other.write_text("{}")
    prune(tmp_path, [running])
    assert set(tmp_path.iterdir()) == {*old[:KEPT], running, zygote, other}


def test_a_large_log_keeps_its_tail_and_its_writer_goes_on_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_logs, "SIZE_MOST", 1000)
    monkeypatch.setattr(engine_logs, "TAIL", 100)
    path = tmp_path / "i-1.log"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, b"".join(b"line %04d\n" % number for number in range(500)))
    prune(tmp_path, [path])
    os.write(descriptor, b"after\n")
    os.close(descriptor)
    lines = path.read_bytes().splitlines()
    assert lines[0] == b"line 0491"  # whole lines
    assert lines[-2:] == [b"line 0499", b"after"]


def test_an_empty_folder_is_fine(tmp_path: Path) -> None:
    prune(tmp_path, ())
    prune(tmp_path / "nowhere", ())

"""One engine environment: made from a lock whose every hash is checked, tried, and only then called finished."""

from __future__ import annotations

import hashlib
import re
import selectors
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import msgspec

import cortex_core
import neuron
from neuron.setup.environments import STAMP, Stamp

TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
POLL_S = 0.5
TRY_S = 600  # for the engine's first import, on a busy machine with a cold disk
LAST_LINES = 12

Progress = Callable[[str, float], None]
"""What is being done, and how much of it is: 0 to 1."""


class Lock(NamedTuple):
    """Requirements with hashes, and where else pip may look for them when they are not where it looks first."""

    text: str
    elsewhere: str = ""

    @property
    def names(self) -> list[str]:
        return re.findall(r"(?m)^([A-Za-z0-9._-]+)==", self.text)


class Recipe(NamedTuple):
    """What an engine's environment is made from."""

    engine: str
    locks: tuple[Lock, ...]
    tried: str = "neuron.zygote.server, vllm"  # imported to see that it works

    @property
    def version(self) -> str:
        found = re.search(r"(?m)^vllm(?:-cpu)?==([^\s;\\]+)", self.locks[0].text)
        return found[1] if found else "unknown"

    @property
    def digest(self) -> str:
        return hashlib.sha256("\0".join(lock.text for lock in self.locks).encode()).hexdigest()[:12]

    @property
    def name(self) -> str:
        return f"{self.version}-{self.engine}-{self.digest}-py{sys.version_info[0]}.{sys.version_info[1]}"


class Failed(Exception):
    """The environment cannot be built; the text says why."""


def recipe(engine: str) -> Recipe:
    """The one that this neuron was tested with: `cpu` or `cuda`."""
    here = resources.files("neuron.setup")
    locks = [Lock((here / f"{engine}.lock").read_text())]
    if engine == "cpu":  # its torch is not on PyPI
        locks.append(Lock((here / "cpu-torch.lock").read_text(), TORCH_INDEX))
    return Recipe(engine, tuple(locks))


def build(wanted: Recipe, folder: Path, progress: Progress) -> None:
    """Make the environment in `folder`, which is this recipe's own. Whatever goes wrong, nothing of it is left.

    Raises:
        Failed: with what pip, or the engine, said last.
    """
    shutil.rmtree(folder, ignore_errors=True)
    try:
        progress("making an environment", 0.0)
        _run([sys.executable, "-m", "venv", str(folder)])
        for lock in wanted.locks:
            _install(folder, lock, progress)
        site = _site(folder)
        sources = dict.fromkeys(str(Path(str(package.__file__)).parents[1]) for package in (neuron, cortex_core))
        (site / "neuron.pth").write_text("\n".join(sources) + "\n")  # what the neuron itself is, after the engine's own
        progress("compiling", 0.0)
        compile_ = [_python(folder), "-m", "compileall", "-q", "-j", "0", str(site)]
        _run(compile_, may_fail=True)  # some is for other Pythons
        progress(f"trying: import {wanted.tried}", 0.0)
        _run([_python(folder), "-P", "-c", f"import {wanted.tried}"], timeout_s=TRY_S)
        python = f"{sys.version_info[0]}.{sys.version_info[1]}"
        stamp = Stamp(engine=wanted.engine, version=wanted.version, lock=wanted.digest, python=python)
        (folder / STAMP).write_bytes(msgspec.json.encode(stamp))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _install(folder: Path, lock: Lock, progress: Progress) -> None:
    command = [_python(folder), "-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--no-cache-dir"]
    command += ["--require-hashes", "--no-deps", "--no-compile", "--only-binary=:all:", "--progress-bar=off"]
    with tempfile.NamedTemporaryFile("w", suffix=".lock") as file:
        file.write(lock.text)
        file.flush()
        command += ["-r", file.name]
        before = _installed(folder)
        try:
            _follow(command, lock, lambda: _installed(folder) - before, progress)
        except Failed:
            if not lock.elsewhere:
                raise
            _follow(
                [*command, "--extra-index-url", lock.elsewhere], lock, lambda: _installed(folder) - before, progress
            )


def _follow(command: Sequence[str], lock: Lock, installed: Callable[[], int], progress: Progress) -> None:
    """Run pip and tell how far it is: it names each package it fetches, and none that it unpacks."""
    whole, fetched, last = max(1, len(lock.names)), 0, list[str]()
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1) as pip,
        selectors.DefaultSelector() as selector,
    ):
        assert pip.stdout is not None
        selector.register(pip.stdout, selectors.EVENT_READ)
        unpacking = False
        try:
            while True:
                if unpacking and not selector.select(POLL_S):
                    progress("unpacking", min(1.0, installed() / whole))
                    continue
                line = pip.stdout.readline()
                if not line:
                    break
                last = [*last[1 - LAST_LINES :], line.rstrip()]
                unpacking = unpacking or line.startswith("Installing collected packages")
                if line.startswith("Collecting "):
                    fetched += 1
                    progress(f"fetching {line.split()[1]}", min(1.0, fetched / whole))
        except BaseException:
            pip.kill()
            raise
    if pip.returncode:
        raise Failed("pip: " + "\n  ".join(_telling(last)))


def _telling(lines: list[str]) -> list[str]:
    """The errors among pip's last words, if it calls any so."""
    return [line for line in lines if "ERROR" in line] or lines


def _run(command: Sequence[str], *, may_fail: bool = False, timeout_s: float | None = None) -> None:
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"{command[-1]} took longer than {timeout_s:.0f} s") from None
    if done.returncode and not may_fail:
        raise Failed("\n  ".join(done.stdout.strip().splitlines()[-LAST_LINES:]) or f"ended with {done.returncode}")


def _python(folder: Path) -> str:
    return str(folder / "bin/python")


def _site(folder: Path) -> Path:
    return next(folder.glob("lib/python3.*/site-packages"))


def _installed(folder: Path) -> int:
    return sum(1 for _ in _site(folder).glob("*.dist-info"))

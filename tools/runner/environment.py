"""An environment of the project's own, made once from a lock and found ready afterwards.

uv makes it, itself taken from PyPI with whatever pip there is. Where uv cannot be had or fails, pip installs the same
lock.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tools.runner.pip_settings import uv_environment
from tools.runner.report import say, step

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache"
REQUIREMENTS = ROOT / "tools/requirements"
PACKAGES = [ROOT / "packages" / name for name in ("cortex-core", "cortex-gateway", "neuron", "cortex-cli")]
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
STAMP = "cortex-environment"  # in the environment: the digest of what it was made from


@dataclass(frozen=True, slots=True)
class Recipe:
    """What an environment is made from."""

    folder: Path
    requirements: tuple[Path, ...]
    weight: str  # for people
    beside: tuple[Path, ...] = ()  # what cannot be installed with the rest: each in a folder of its name within

    def digest(self) -> str:
        """Of everything that, when it changes, makes the environment stale."""
        parts = [str(sys.version_info[:2]), version()]
        parts += [path.read_text() for path in (*self.requirements, *self.beside)]
        parts += [(package / name).read_text() for package in PACKAGES for name in ("pyproject.toml", "hatch_build.py")]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()


OPENAI_2 = REQUIREMENTS / "openai-2.txt"
ENGINE = Recipe(
    ROOT / ".venv", (REQUIREMENTS / "engine.lock", REQUIREMENTS / "torch.txt"), "2.2 GB with vLLM", (OPENAI_2,)
)
SIM = Recipe(ROOT / ".venv-sim", (REQUIREMENTS / "sim.lock",), "without vLLM")


class Unavailable(Exception):
    """The environment cannot be made; the text says why and what helps."""


def ready(recipe: Recipe) -> Path:
    """Return the environment's Python, making the environment first where it is missing or stale."""
    python = recipe.folder / "bin/python"
    with _lock(recipe):
        if not _fresh(recipe, python):
            say(f"Environment {recipe.folder.name} ({recipe.weight})")
            try:
                _make_with_uv(recipe, python)
            except Unavailable as error:
                say(f"  ! uv: {error}\n  ! so pip installs the same lock")
                _make_with_pip(recipe, python)
            (recipe.folder / STAMP).write_text(recipe.digest())
    return python


def version() -> str:
    """The one version, out of the root's pyproject.toml."""
    found: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    return found


def variables() -> dict[str, str]:
    """The environment variables for programs of the environment, which is ours: they may keep their bytecode in it.

    Without bytecode `import vllm` takes three times as long.
    """
    dropped = {"PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
    return {name: value for name, value in os.environ.items() if name not in dropped} | {"PYTHONUNBUFFERED": "1"}


@contextmanager
def _lock(recipe: Recipe) -> Iterator[None]:
    """Two runs side by side: the second waits until the first has made the environment."""
    CACHE.mkdir(exist_ok=True)
    with (CACHE / f"{recipe.folder.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with step(f"another run is making {recipe.folder.name}"):
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fresh(recipe: Recipe, python: Path) -> bool:
    stamp = recipe.folder / STAMP
    return python.exists() and stamp.exists() and stamp.read_text() == recipe.digest()


def _make_with_uv(recipe: Recipe, python: Path) -> None:
    uv, settings = _uv()
    if not _same_python(recipe.folder):
        _run([str(uv), "venv", "--quiet", "--clear", "--python", sys.executable, str(recipe.folder)], settings)
    (recipe.folder / STAMP).unlink(missing_ok=True)
    with step("packages"):
        sync: list[str | Path] = [uv, "pip", "sync", "--quiet", "--python", python, *recipe.requirements]
        try:
            _run(sync, settings)
        except Unavailable:
            if recipe is not ENGINE:
                raise
            # No wheel of torch where pip is told to look. The lock's hashes hold for everything else.
            _run([*sync, "--extra-index-url", TORCH_INDEX, "--index-strategy", "unsafe-best-match"], settings)
    install: list[str | Path] = [uv, "pip", "install", "--quiet", "--python", python, "--no-deps"]
    _add_beside(recipe, install, settings)
    with step("cortex-core, cortex-gateway, neuron, cortex-cli"):
        _run([*install, "--no-build-isolation", *(f"--editable={package}" for package in PACKAGES)], settings)


def _make_with_pip(recipe: Recipe, python: Path) -> None:
    with step("venv"):
        _run([sys.executable, "-m", "venv", "--clear", recipe.folder], {})
    pip: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
    with step("packages"):
        _run([*pip, "--no-compile", "--require-hashes", "-r", recipe.requirements[0]], {})
    for torch in recipe.requirements[1:]:
        with step("torch"):
            try:
                _run([*pip, "--no-compile", "-r", torch], {})
            except Unavailable:
                _run([*pip, "--no-compile", "-r", torch, "--extra-index-url", TORCH_INDEX], {})
    _add_beside(recipe, pip, {})
    with step("cortex-core, cortex-gateway, neuron, cortex-cli"):
        _run([*pip, "--no-build-isolation", *(f"--editable={package}" for package in PACKAGES)], {})


def _add_beside(recipe: Recipe, install: list[str | Path], settings: dict[str, str]) -> None:
    for pinned in recipe.beside:
        folder = recipe.folder / pinned.stem
        shutil.rmtree(folder, ignore_errors=True)
        with step(pinned.stem):
            _run([*install, "--require-hashes", "--target", folder, "-r", pinned], settings)


def _uv() -> tuple[Path, dict[str, str]]:
    """Our uv, and pip's settings in its words."""
    pip = _pip()
    pinned = REQUIREMENTS / "uv.txt"
    folder = CACHE / pinned.read_text().split()[0].replace("==", "-")
    uv = folder / "bin/uv"
    if not uv.exists():
        with step("uv, from PyPI"):
            unfinished = CACHE / f"uv-{os.getpid()}"
            try:
                _run([*pip, "install", "--quiet", "--require-hashes", "--target", unfinished, "-r", pinned], {})
                shutil.rmtree(folder, ignore_errors=True)
                unfinished.rename(folder)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
    return uv, uv_environment(pip)


def _pip() -> list[str]:
    """A pip to call: this Python's, or one in a small environment of its own."""
    own = CACHE / "pip"
    for python in (sys.executable, str(own / "bin/python")):
        pip = [python, "-m", "pip"]
        if (
            Path(python).exists()
            and subprocess.run([*pip, "--version"], capture_output=True, check=False).returncode == 0
        ):
            return pip
    try:
        _run([sys.executable, "-m", "venv", "--clear", own], {})
    except Unavailable as error:
        raise Unavailable("this Python has neither pip nor ensurepip; on Debian: apt install python3-venv") from error
    return [str(own / "bin/python"), "-m", "pip"]


def _same_python(folder: Path) -> bool:
    """Whether the environment there can be brought up to date in place."""
    found = (
        subprocess.run(
            [folder / "bin/python", "-c", "import sys; print(*sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=False,
        )
        if (folder / "bin/python").exists()
        else None
    )
    return found is not None and found.stdout.split() == [str(part) for part in sys.version_info[:2]]


def _run(command: list[str | Path], settings: dict[str, str]) -> None:
    """Run it quietly; a failure carries the last lines it printed."""
    done = subprocess.run(
        command, env=variables() | settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode != 0:
        said = "\n    ".join(done.stdout.strip().splitlines()[-12:])
        raise Unavailable(f"{Path(command[0]).name} ended with {done.returncode}:\n    {said}")

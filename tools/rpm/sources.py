"""What the specs are built from: this checkout, and a wheelhouse, so that a build needs no network."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache/rpm"
LOCKS = [
    ROOT / "packages/cortex-gateway/requirements.lock",
    ROOT / "packages/cortex-cli/requirements.lock",
    ROOT / "packages/neuron/requirements.lock",
    ROOT / "rpm/build.lock",
]
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def version() -> str:
    found: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    return found


def checkout(folder: Path) -> Path:
    """cortex-VERSION.tar.gz of the files that git knows, as they are now."""
    listed = ["git", "ls-files", "-z", "packages", "rpm", "tools/docs", "tools/__init__.py"]
    listed += ["pyproject.toml", "README.md", "LICENSE"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    path = folder / f"cortex-{version()}.tar.gz"
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name in filter(None, names):
            if (ROOT / name).exists():
                archive.add(ROOT / name, f"cortex-{version()}/{name}")
    return path


def wheelhouse(python: str, others: Sequence[str] = ()) -> tuple[Path, str]:
    """wheelhouse.tar with every wheel of the locks, hashes checked; kept until a lock changes.

    Args:
        python: the interpreter that the packages are for.
        others: further versions, such as "3.12", for a source package that is built elsewhere.

    Returns its path, and what to say of it.
    """
    of = subprocess.run([python, "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    versions = [of.rpartition(".")[0], *others]
    digest = hashlib.sha256("".join([*(lock.read_text() for lock in LOCKS), *versions]).encode()).hexdigest()[:16]
    kept = CACHE / f"wheelhouse-{digest}.tar"
    fresh = not kept.exists()
    if fresh:
        CACHE.mkdir(parents=True, exist_ok=True)
        folder = CACHE / f"wheels-{digest}"
        for one in versions:
            _download(
                folder, one, native=one == versions[0] and sys.version_info[:2] == tuple(map(int, one.split(".")))
            )
        unfinished = kept.with_suffix(f".{os.getpid()}")
        with tarfile.open(unfinished, "w") as archive:
            for wheel in sorted(folder.glob("*.whl")):
                _add(archive, f"wheelhouse/{wheel.name}", wheel.read_bytes())
        unfinished.rename(kept)
    with tarfile.open(kept) as archive:
        count = len(archive.getnames())
    return kept, f"{count} wheels for Python {', '.join(versions)}, {kept.stat().st_size / 1e6:.0f} MB" + (
        "" if fresh else ", kept"
    )


def _download(folder: Path, python: str, *, native: bool) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--require-hashes", "--only-binary=:all:", "--dest", str(folder)]
    if not native:
        command += ["--implementation=cp", f"--python-version={python}", *(f"--platform={one}" for one in PLATFORMS)]
    for lock in LOCKS:
        subprocess.run([*command, "-r", str(lock)], check=True)


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))

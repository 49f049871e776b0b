"""rpmbuild over the two specs, at the same time, in a tree of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tools.rpm import sources
from tools.rpm.steps import Failed

SPECS = ("cortex", "helexa-neuron")


def rpms(folder: Path, python: str, release: int = 1) -> list[Path]:
    """The binary packages of one release. Later ones take their environments over from the first, as they are."""
    again = folder if release > 1 else None
    with ThreadPoolExecutor() as both:
        built = both.map(
            lambda spec: _build(folder / f"{spec}-{release}", spec, python, release, "-bb", again=again), SPECS
        )
        return sorted(path for tree in built for path in tree.glob("RPMS/*/*.rpm"))


def srpm(folder: Path, spec: str, python: str, others: tuple[str, ...]) -> Path:
    """A source package that carries wheels for several Pythons, for a builder without a network."""
    tree = _build(folder, spec, python, 1, "-bs", others)
    (path,) = tree.glob("SRPMS/*.src.rpm")
    return path


def _build(
    tree: Path,
    spec: str,
    python: str,
    release: int,
    what: str,
    others: tuple[str, ...] = (),
    *,
    again: Path | None = None,
) -> Path:
    shutil.rmtree(tree, ignore_errors=True)
    (tree / "SOURCES").mkdir(parents=True)
    sources.checkout(tree / "SOURCES")
    shutil.copyfile(sources.wheelhouse(python, others)[0], tree / "SOURCES/wheelhouse.tar")
    text = (sources.ROOT / f"rpm/{spec}.spec").read_text()
    (tree / f"{spec}.spec").write_text(f"%global cortex_version {sources.version()}\n{text}")
    defined = {"_topdir": str(tree), "cortex_release": str(release), "_binary_payload": "w3.zstdio"}
    if what == "-bb":
        defined["python"] = python
    command = ["rpmbuild", what, "--nodeps", "--noclean", "--quiet"]
    for name, value in defined.items():
        command += ["--define", f"{name} {value}"]
    env = dict(os.environ)
    if again is not None:
        (env["BUNDLED"],) = map(str, (again / f"{spec}-1/BUILDROOT").iterdir())
    program = [*command, str(tree / f"{spec}.spec")]
    done = subprocess.run(program, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"rpmbuild {spec}: " + "\n    ".join((done.stdout + done.stderr).strip().splitlines()[-15:]))
    shutil.rmtree(tree / "BUILD", ignore_errors=True)
    return tree

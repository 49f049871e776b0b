"""A root of its own: this machine's file system, seen through an overlay, with a package database that is empty.

Programs, interpreter and shell are the machine's, so scriptlets and services really run in it; whatever they write is
in `upper` and gone afterwards. A stub package stands for a distribution's, so that dnf resolves what we require.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tools.rpm.steps import Failed, Skipped, run, tool

BASE = """\
Name: base-of-a-distribution
Version: 1
Release: 1
Summary: What a distribution brings
License: MIT
BuildArch: noarch
Provides: python(abi) = {abi}
Provides: systemd firewalld-filesystem shadow-utils /bin/sh /usr/bin/sh /usr/bin/bash /usr/bin/python{abi}
%description
Stands for the packages of a distribution.
%files
"""


class Root:
    """Args:
    path: where the root is to be seen.
    upper: what has been written in it.
    """

    def __init__(self, path: Path, upper: Path) -> None:
        self.path = path
        self.upper = upper

    def run(self, *command: object, timeout_s: float = 120.0) -> str:
        """In it. Raises Failed."""
        return run(self.command(command), timeout_s=timeout_s)

    def command(self, command: Sequence[object], user: str = "") -> list[str]:
        return ["chroot", *([f"--userspec={user}"] if user else []), str(self.path), *map(str, command)]

    def start(self, command: Sequence[object], user: str, env: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
        """A service of it, in a clean environment."""
        clean = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", **env}
        with log.open("wb") as out:
            return subprocess.Popen(
                self.command(command, user), env=clean, stdout=out, stderr=out, start_new_session=True
            )

    def written(self, words: Sequence[str]) -> list[str]:
        """Files and folders, in what was written, whose name has one of these words. Sorted."""
        found = []
        for path in self.upper.rglob("*"):
            name = path.relative_to(self.upper).as_posix()
            whiteout = path.is_char_device() and path.stat().st_rdev == 0
            if not whiteout and any(word in name for word in words):
                found.append(f"/{name}")
        return sorted(found)


@contextmanager
def overlay() -> Iterator[Root]:
    """In a mount namespace of our own. Raises Skipped where the kernel does not let us."""
    folder = Path(tempfile.mkdtemp(prefix="cortex-root-", dir="/tmp"))
    try:
        run(["mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", folder])
        for name in ("upper", "work", "root"):
            (folder / name).mkdir()
        options = f"lowerdir=/,upperdir={folder}/upper,workdir={folder}/work"
        run(["mount", "-t", "overlay", "overlay", "-o", options, folder / "root"])
        for name in ("proc", "dev", "sys"):
            run(["mount", "--rbind", f"/{name}", folder / "root" / name])
        run(["mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", folder / "root/tmp"])
        run(["mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", folder / "root/run"])
    except Failed as error:
        subprocess.run(["umount", "--lazy", folder], capture_output=True, check=False)
        folder.rmdir()
        raise Skipped(f"no root of its own can be mounted here: {error}") from error
    try:
        yield Root(folder / "root", folder / "upper")
    finally:
        subprocess.run(["umount", "--lazy", folder], check=False)
        folder.rmdir()


def repository(folder: Path, rpms: Sequence[Path], abi: str) -> str:
    """A folder of packages, the stub among them, as a repository."""
    tool("createrepo_c", "createrepo-c")
    spec = folder / "base.spec"
    spec.write_text(BASE.format(abi=abi))
    defined = ["--define", f"_topdir {folder}/base", "--define", f"_rpmdir {folder}"]
    run(["rpmbuild", "-bb", "--quiet", *defined, spec])
    for path in rpms:
        shutil.copy(path, folder)
    return run(["createrepo_c", "--quiet", folder])

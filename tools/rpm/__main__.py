"""python -m tools.rpm [--long] [--python /usr/bin/python3] | srpm SPEC OUTDIR

Builds the packages, then proves them in a root of their own. Needs rpmbuild, createrepo_c and dnf; rpmlint, systemd and
firewalld make it prove more. `--long` also installs the real engine in the root, and has it answer.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tools.rpm import build, sources
from tools.rpm.steps import tool

INSIDE = "CORTEX_RPM_NAMESPACE"
OTHER_PYTHONS = ("3.11", "3.12", "3.13")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="tools.rpm", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("srpm", nargs="*", metavar="srpm SPEC OUTDIR", help="only a source package, for COPR")
    parser.add_argument("--long", action="store_true", help="the real engine too: 3 GB and some minutes")
    parser.add_argument("--python", default="/usr/bin/python3", help="the distribution's own")
    options = parser.parse_args()
    python = str(Path(options.python).resolve())
    if options.srpm:
        _, spec, out = options.srpm
        return srpm(spec.removesuffix(".spec").rpartition("/")[2], Path(out), python)
    if not os.environ.get(INSIDE):
        began = time.monotonic()
        said = sources.wheelhouse(python)[1]  # while there is a network
        print(f"  ✓ {'wheels':<12} {time.monotonic() - began:5.1f} s  {said}", flush=True)
        if unshare := namespace():
            return again_in(unshare)
        print("  – a root of its own takes root: here the packages are only built and linted")
    from tools.rpm.prove import prove

    with tempfile.TemporaryDirectory(prefix="cortex-rpm-", dir="/tmp") as folder:
        return prove(Path(folder), python, long=options.long)


def namespace() -> list[str]:
    """What gives a command mounts and a network of its own, where the real ports are free; nothing where it may not.

    Root only: to anybody else this machine's files are nobody's, and nothing can be installed over them.
    """
    unshare = [tool("unshare", "util-linux"), "--mount", "--net", "--propagation=private"]
    return unshare if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode == 0 else []


def again_in(unshare: list[str]) -> int:
    """This command again, in such a place."""
    command = [*unshare, "sh", "-c", 'ip link set lo up; exec "$@"', "sh"]
    command += [sys.executable, "-m", "tools.rpm", *sys.argv[1:]]
    return subprocess.run(command, env={**os.environ, INSIDE: str(os.getpid())}, check=False).returncode


def srpm(spec: str, out: Path, python: str) -> int:
    mine = ".".join(map(str, sys.version_info[:2]))
    with tempfile.TemporaryDirectory(prefix="cortex-rpm-") as folder:
        path = build.srpm(Path(folder), spec, python, tuple(one for one in OTHER_PYTHONS if one != mine))
        out.mkdir(parents=True, exist_ok=True)
        print(shutil.copy(path, out))
    return 0


if __name__ == "__main__":
    sys.exit(main())

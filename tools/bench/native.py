"""The two C programs, compiled when they are first needed."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from tools.runner.environment import CACHE

HERE = Path(__file__).parent
FLAGS = ["-O2", "-Wall", "-Wextra"]


class Missing(Exception):
    """Something that the benchmark needs is not on this machine; the text says what."""


def build(name: str) -> Path:
    """The program of `name`.c. Compiled once for each state of its source.

    Raises:
        Missing: there is no C compiler, or it failed.
    """
    sources = [HERE / f"{name}.c", HERE / "wire.h"]
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]
    program = CACHE / "bench" / f"{name}-{digest}"
    if program.exists():
        return program
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise Missing("a C compiler (Debian: apt install gcc libc6-dev, Rocky: dnf install gcc)")
    program.parent.mkdir(parents=True, exist_ok=True)
    unfinished = program.with_suffix(f".{os.getpid()}")
    done = subprocess.run([compiler, *FLAGS, "-o", unfinished, sources[0]], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Missing(f"a C compiler that takes {sources[0].name}: {done.stderr.strip()}")
    unfinished.rename(program)
    return program

"""The peers' environments: each its own, made from PyPI once, under the cache folder. A peer that cannot be had is
left out, aloud."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tools.bench.native import Missing
from tools.runner.environment import CACHE
from tools.runner.report import step

INSTALL_S = 600


@dataclass(frozen=True, slots=True)
class Peer:
    name: str
    requirement: str  # for pip
    package: str  # whose version is reported
    start_s: float
    slow: bool = False  # cannot carry the paced load, nor 200 streams a second

    def ready(self) -> tuple[Path, str]:
        """The folder of its scripts, and its version.

        Raises:
            Missing: it cannot be installed.
        """
        folder = CACHE / "bench" / self.name
        python = folder / "bin/python"
        if not (folder / "complete").exists():
            with step(f"{self.name} from PyPI"):
                shutil.rmtree(folder, ignore_errors=True)
                self._run(sys.executable, "-m", "venv", folder)
                self._run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", self.requirement)
                (folder / "complete").touch()
        code = f"from importlib.metadata import version; print(version({self.package!r}))"
        return folder / "bin", self._run(python, "-c", code).strip()

    def _run(self, *command: str | Path) -> str:
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, check=True)
        except subprocess.TimeoutExpired:
            raise Missing(f"{self.name}: not installed within {INSTALL_S} s") from None
        except subprocess.CalledProcessError as error:
            last = error.stderr.strip().splitlines()[-1:] or [f"ended with {error.returncode}"]
            raise Missing(f"{self.name}: {last[0]}") from None
        return done.stdout


PEERS = {
    peer.name: peer
    for peer in (
        Peer("vllm-router", "vllm-router", "vllm-router", start_s=30),
        Peer("smg", "smg", "smg", start_s=30),
        Peer("litellm", "litellm[proxy]", "litellm", start_s=120, slow=True),
    )
}

"""Each role by plain pip into an empty environment of its own, as README says it: how long, how big, what came.

    python3 -m tools.roles [gateway | cli | neuron | neuron-both …]

A gateway takes at most 50 MB and 10 s, and nothing but an engine brings torch. Exit code 1 where that does not hold.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Role(NamedTuple):
    packages: tuple[str, ...]
    proof: tuple[str, ...]  # a command of its environment
    says: str
    limit_mb: float = 50.0


class Installed(NamedTuple):
    seconds: float
    megabytes: float  # without the environment's own pip and setuptools
    names: list[str]
    said: str


ROLES = {
    "gateway": Role(
        ("cortex-core", "cortex-gateway"),
        ("python", "-c", "import cortex_gateway.main as m; print(m.__doc__)"),
        "gateway",
    ),
    "cli": Role(("cortex-core", "cortex-cli"), ("cortex", "version"), "cortex 0."),
    "gateway and cli": Role(("cortex-core", "cortex-gateway", "cortex-cli"), ("cortex", "config", "check"), "fine"),
    "neuron": Role(("cortex-core", "neuron"), ("python", str(ROOT / "tools/roles.py"), "ask"), "no engine here: run"),
}
HEAVY = ("torch", "vllm", "transformers", "nvidia-cu")
GATEWAY_S = 10.0


def main(names: list[str]) -> int:
    if names == ["ask"]:
        return ask()
    failed = []
    for name, role in ROLES.items():
        if names and name not in names:
            continue
        with tempfile.TemporaryDirectory(prefix="cortex-role-") as folder:
            found = install(Path(folder), role)
        problems = judge(name, role, found)
        failed += problems
        print(f"{name:16} {found.seconds:5.1f} s  {found.megabytes:5.1f} MB  {len(found.names)} packages")
        print(f"{'':16} {' '.join(found.names)}")
        print(f"{'':16} {found.said.strip().splitlines()[-1]}")
    said = both_engines()
    print(f"{'cpu and cuda':16} {said}")
    if not re.search(r"neuron\[cpu,cuda\].*conflicting dependencies", said, re.DOTALL):
        failed.append("neuron[cpu,cuda] is not refused")
    for problem in failed:
        print(f"FAILED: {problem}")
    return bool(failed)


def install(folder: Path, role: Role) -> Installed:
    """A fresh environment with the role, and what its proof printed."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    bare = size_mb(folder)
    pip = [str(folder / "bin/python"), "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    began = time.monotonic()
    subprocess.run([*pip, *(str(ROOT / "packages" / name) for name in role.packages)], check=True, env=environment())
    seconds = time.monotonic() - began
    program, *arguments = role.proof
    proof = [str(folder / "bin" / program), *arguments]
    done = subprocess.run(proof, capture_output=True, text=True, timeout=60, cwd=folder, check=False, env=environment())
    listed = [str(folder / "bin/python"), "-m", "pip", "list", "--format=freeze", "--disable-pip-version-check"]
    names = subprocess.run(listed, capture_output=True, text=True, check=True).stdout
    wanted = [line.partition("==")[0] for line in names.splitlines()]
    return Installed(
        seconds,
        size_mb(folder) - bare,
        [name for name in wanted if name not in ("pip", "setuptools")],
        done.stdout + done.stderr,
    )


def ask() -> int:
    """In a neuron's environment: start it, and print what it says of its engine."""
    import http.client
    import json

    here = Path(sys.executable).parent
    places = {
        f"NEURON_NEURON__{name.upper()}": str(here.parent / name) for name in ("state_dir", "run_dir", "models_dir")
    }
    settings = places | {"NEURON_NEURON__LISTEN": "127.0.0.1:13139"}
    began, answer = time.monotonic(), b""
    with subprocess.Popen([here / "neuron"], env=environment() | settings, stderr=subprocess.PIPE) as neuron:
        while not answer and time.monotonic() < began + 20:
            connection = http.client.HTTPConnection("127.0.0.1", 13139, timeout=5)
            try:
                connection.request("GET", "/health")
                answer = connection.getresponse().read()
            except ConnectionRefusedError:
                time.sleep(0.02)
            finally:
                connection.close()
        seconds = time.monotonic() - began
        neuron.terminate()
    print(f"answers after {seconds:.1f} s: {json.loads(answer)['engines'][0]['problem']}")
    return 0


def judge(name: str, role: Role, found: Installed) -> list[str]:
    problems = [f"{name} pulls {one}" for one in found.names if one.startswith(HEAVY)]
    if found.megabytes > role.limit_mb:
        problems.append(f"{name} takes {found.megabytes:.1f} MB, more than {role.limit_mb:g}")
    if name == "gateway" and found.seconds > GATEWAY_S:
        problems.append(f"{name} takes {found.seconds:.1f} s, more than {GATEWAY_S:g}")
    if role.says not in found.said:
        problems.append(f"{name} does not run: {found.said}")
    return problems


def both_engines() -> str:
    """What pip says to the two extras at once, without fetching either."""
    with tempfile.TemporaryDirectory(prefix="cortex-role-") as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [f"{folder}/bin/python", "-m", "pip", "install", "--dry-run", "--disable-pip-version-check"]
        wanted = [f"{ROOT}/packages/cortex-core", f"{ROOT}/packages/neuron[cpu,cuda]"]
        done = subprocess.run(
            [*pip, *wanted], capture_output=True, text=True, timeout=300, check=False, env=environment()
        )
    said = (done.stderr + done.stdout).splitlines()
    telling = [line.strip() for line in said if "conflicting dependencies" in line or "depends on torch" in line]
    return "; ".join(dict.fromkeys(telling)) if done.returncode else "accepted"


def size_mb(folder: Path) -> float:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir()) / 1e6


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("CORTEX_", "NEURON_"))}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

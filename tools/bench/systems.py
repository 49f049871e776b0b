"""The systems under test: how each is configured and started before the same mock."""

from __future__ import annotations

import http.client
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from tools.bench.cores import Cores, pinned
from tools.bench.mock import ALIAS, MODEL, Mock, free_port, request
from tools.bench.native import Missing
from tools.bench.peers import PEERS, Peer
from tools.runner.children import Child, Children
from tools.runner.environment import ROOT, version
from tools.runner.report import step

OURS, DIRECT, DOUBLE = "cortex", "direct", "cortex ×2"
START_S = 30.0


@dataclass(frozen=True, slots=True)
class System:
    name: str
    version: str
    port: int
    pids: tuple[int, ...]  # of its processes; their children count as well
    slow: bool = False


class Stage:
    """Starts systems before one mock, all in `folder`; they end with `children`."""

    def __init__(self, children: Children, folder: Path, cores: Cores) -> None:
        self.mock = Mock(children, folder / "documents", cores)
        self._children = children
        self._folder = folder
        self._cores = cores
        _await(self.direct(), self.mock.child, START_S)

    def direct(self) -> System:
        """No system: the ceiling of mock and load generator."""
        return System(DIRECT, "", self.mock.port, (self.mock.child.process.pid,))

    def ours(self, name: str = OURS, processes: int = 1) -> System:
        port, config = free_port(), self._folder / f"{name}.toml"
        models = self._folder / "models.toml"
        models.write_text(f'[[models]]\nid = "{MODEL}"\nvram_mb = 1000\n[aliases]\n{ALIAS} = "{MODEL}"\n')
        config.write_text(
            f'models_config = "{models.name}"\n'
            f'[gateway]\nlisten = "127.0.0.1:{port}"\nmetrics_listen = "127.0.0.1:{free_port()}"\n'
            + (f"processes = {processes}\n" if processes > 1 else "")
            + f'[fleet]\ntoken = "bench"\n[[neurons]]\nname = "mock"\nendpoint = "{self.mock.url}"\n'
        )
        command: list[str | Path] = [sys.executable, "-m", "cortex_cli", "serve", "--config", config]
        return self._start(System(name, _version(), port, ()), command, START_S)

    def peer(self, peer: Peer) -> System:
        """Raises Missing when it cannot be had."""
        scripts, version = peer.ready()
        port = free_port()
        command = _COMMANDS[peer.name](scripts, port, self.mock.url, self._folder)
        return self._start(System(peer.name, version, port, (), peer.slow), command, peer.start_s)

    def _start(self, system: System, command: list[str | Path], start_s: float) -> System:
        with step(f"{system.name} {system.version}"):
            child = self._children.start(system.name, *pinned(self._cores.system, *command))
            system = replace(system, pids=(child.process.pid,))
            _await(system, child, start_s)
        return system


def _await(system: System, child: Child, start_s: float) -> None:
    """Until it answers a chat completion."""
    deadline = time.monotonic() + start_s
    while problem := _problem(system.port):
        if child.ended:
            raise Missing(f"{system.name} ended at once:\n{child.last_lines()}")
        if time.monotonic() > deadline:
            raise Missing(f"{system.name} did not answer within {start_s:g} s: {problem}\n{child.last_lines()}")
        time.sleep(0.05)


def _problem(port: int) -> str:
    """Why a chat completion is not answered; empty when it is."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    headers = {"content-type": "application/json", "authorization": "Bearer sk-bench"}
    try:
        connection.request("POST", "/v1/chat/completions", request(), headers)
        answer = connection.getresponse()
        said = answer.read()
        return "" if answer.status == 200 else f"{answer.status} {said[:300]!r}"
    except (OSError, http.client.HTTPException) as error:
        return str(error)
    finally:
        connection.close()


def _vllm_router(scripts: Path, port: int, upstream: str, _: Path) -> list[str | Path]:
    return [scripts / "vllm-router", *_router(port, upstream), "--prometheus-port", str(free_port())]


def _smg(scripts: Path, port: int, upstream: str, _: Path) -> list[str | Path]:
    return [scripts / "smg", "launch", *_router(port, upstream), "--prometheus-port", str(free_port())]


def _router(port: int, upstream: str) -> list[str]:
    address = ["--host", "127.0.0.1", "--port", str(port)]
    return [*address, "--worker-urls", upstream, "--policy", "round_robin", "--log-level", "error"]


def _litellm(scripts: Path, port: int, upstream: str, folder: Path) -> list[str | Path]:
    config = folder / "litellm.yaml"
    models = "".join(
        f"- model_name: {name}\n  litellm_params:\n    model: openai/{MODEL}\n"
        f"    api_base: {upstream}/v1\n    api_key: sk-bench\n"
        for name in (MODEL, ALIAS)
    )
    config.write_text(f"model_list:\n{models}general_settings:\n  dangerously_permit_weak_or_unset_master_key: true\n")
    address = ["--host", "127.0.0.1", "--port", str(port)]
    return [scripts / "litellm", "--config", config, *address, "--num_workers", "1", "--telemetry", "False"]


_COMMANDS: dict[str, Callable[[Path, int, str, Path], list[str | Path]]] = {
    "vllm-router": _vllm_router,
    "smg": _smg,
    "litellm": _litellm,
}
assert _COMMANDS.keys() == PEERS.keys()


def _version() -> str:
    """The distributions' one version, and the commit where there is one."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return version()
    return f"{version()} at {commit}"

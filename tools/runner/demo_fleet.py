"""The demo's fleet: two neurons with memory for one model each, a catalogue of three, and the gateway before them."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tools.runner import client
from tools.runner.children import Child, Children
from tools.runner.report import Line, step
from tools.tinymodel.fleet import CHECKPOINT, MODELS, make_models

NEURONS = ("beast", "benjy")
MODEL_MB, DEVICE_MB = 600, 1000  # so that a host holds one model, never two
LISTEN_S = 20.0
READY_S = 240.0  # imports of vLLM, the first time, on a busy machine
MARK = "DEMO_FOLDER"  # in the environment of all that the demo starts: how leftovers are known


@dataclass(frozen=True, slots=True)
class Ports:
    gateway: int
    metrics: int
    beast: int
    benjy: int

    def neuron(self, name: str) -> int:
        return {"beast": self.beast, "benjy": self.benjy}[name]

    def taken(self) -> list[int]:
        return [port for port in (self.gateway, self.metrics, self.beast, self.benjy) if not _free(port)]


class Fleet:
    """The processes, in the folder that holds their configuration, state, sockets and logs."""

    def __init__(self, folder: Path, ports: Ports, engine: str, python: Path, children: Children) -> None:
        self.folder, self.ports, self.engine = folder, ports, engine
        self._scripts, self._children = python.parent, children

    @property
    def simulated(self) -> bool:
        return self.engine == "sim"

    def start(self) -> None:
        """Neurons first, so that the gateway finds them; each answers before its engine is there."""
        make_models(CHECKPOINT, self.folder / "models")
        for name in NEURONS:
            config = self._write(f"{name}.toml", self._neuron_toml(name))
            with step(f"neuron {name} on port {self.ports.neuron(name)}") as line:
                neuron = self._children.start(name, self._scripts / "neuron", "--config", config)
                self._until(partial(self._answers, name), LISTEN_S, f"{name} to answer")
                line.detail = f"answers, process {neuron.process.pid}"
        self._write("models.toml", _models_toml())
        config = self._write("cortex.toml", self._cortex_toml())
        with step(f"gateway on port {self.ports.gateway}, metrics on port {self.ports.metrics}") as line:
            self._children.start("gateway", self._scripts / "cortex", "serve", "--config", config)
            self._until(self._follows_all, LISTEN_S, "the gateway to follow both neurons")
            line.detail = "follows both neurons"
        with step("engines" if self.simulated else "vLLM is imported once on each host") as line:
            self._until(lambda: self._engines_ready(line), READY_S, "the engines to be ready")

    def models(self) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = json.loads(client.get(self.ports.gateway, "/v1/models"))["data"]
        return entries

    def where(self, model: str) -> list[str]:
        """The neurons on which it is ready."""
        entry = next(entry for entry in self.models() if entry["id"] == model)
        return [location["neuron"] for location in entry["locations"] if location["state"] == "ready"]

    def check_alive(self) -> None:
        if (dead := self._children.dead()) is not None:
            raise client.BadAnswer(_obituary(dead))

    def _until(self, holds: Callable[[], bool], timeout_s: float, what: str) -> None:
        until(holds, timeout_s, what, self.check_alive)

    def _health(self, name: str) -> dict[str, Any] | None:
        try:
            health: dict[str, Any] = json.loads(client.get(self.ports.neuron(name), "/health", timeout_s=2))
        except (OSError, http.client.HTTPException):
            return None
        return health

    def _answers(self, name: str) -> bool:
        return self._health(name) is not None

    def _follows_all(self) -> bool:
        try:
            health = json.loads(client.get(self.ports.gateway, "/health", timeout_s=2))
        except (OSError, http.client.HTTPException, client.BadAnswer):
            return False
        return bool(health["neurons"]["healthy"] == len(NEURONS))

    def _engines_ready(self, line: Line) -> bool:
        versions = set()
        for name in NEURONS:
            health = self._health(name)
            engine = health["engines"][0] if health and health["engines"] else {}
            if engine.get("problem"):
                raise client.BadAnswer(f"{name}: {engine['problem']}")
            if not engine.get("ready"):
                return False
            versions.add(engine["version"])
        line.detail = f"{self.engine} {' '.join(sorted(versions))}".rstrip()
        return True

    def _write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def _neuron_toml(self, name: str) -> str:
        return f"""\
[neuron]
name = "{name}"
listen = "127.0.0.1:{self.ports.neuron(name)}"
state_dir = "state-{name}"
run_dir = "run-{name}"
models_dir = "models"

[engine]
kind = "{self.engine}"
sim = {{ load_s = 0.5, tokens_per_s = 100.0 }}

[[devices]]
id = "cpu:0"
memory_mb = {DEVICE_MB}
"""

    def _cortex_toml(self) -> str:
        neurons = "".join(
            f'\n[[neurons]]\nname = "{name}"\nendpoint = "http://127.0.0.1:{self.ports.neuron(name)}"\n'
            for name in NEURONS
        )
        return f"""\
models_config = "models.toml"

[gateway]
listen = "127.0.0.1:{self.ports.gateway}"
metrics_listen = "127.0.0.1:{self.ports.metrics}"

[eviction]
strategy = "lru"
{neurons}"""


def _models_toml() -> str:
    return "\n".join(f'[[models]]\nid = "{model}"\nvram_mb = {MODEL_MB}\n' for model in MODELS)


def until(holds: Callable[[], bool], timeout_s: float, what: str, check: Callable[[], None] = lambda: None) -> None:
    """Ask until it holds. `check` may raise what makes waiting pointless."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        check()
        if time.monotonic() > deadline:
            raise client.BadAnswer(f"waited {timeout_s:.0f} s for {what}")
        time.sleep(0.05)


def leftovers(folder: Path) -> list[int]:
    """Processes that carry our mark, whoever their parent is by now."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                marked = f"{MARK}={folder}".encode() in (entry / "environ").read_bytes().split(b"\0")
            except OSError:
                continue  # it ended, or is another user's
            if marked:
                found.append(int(entry.name))
    return found


def kill_leftovers(folder: Path) -> list[int]:
    """The last net, for what its own parents could not end. Returns what had to be killed."""
    found = leftovers(folder)
    for pid in found:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    return found


def _obituary(child: Child) -> str:
    return f"{child.name} ended with {child.process.returncode}; its last lines:\n{child.last_lines()}"


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True

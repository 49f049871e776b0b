"""A fleet of real processes, with configurations in a temporary folder. Everything ends with its owner.

    with fleet() as host:
        beast = host.neuron("beast", sim={"load_s": 0.2})
        gateway = host.gateway([beast], models=[{"id": "tiny"}])

Start processes from the main thread only: they die with the thread that started them, so that nothing outlives a
killed test run.
"""

from __future__ import annotations

import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tomli_w

from tests.support.daemons import LOOPBACK, GatewayProcess, NeuronProcess, Place, Reached
from tests.support.ports import free_port
from tests.support.process import Process

ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""


class Host:
    """Starts processes, knows them all, and ends them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[Process] = []

    def neuron(
        self,
        name: str,
        *,
        engine: str = "sim",
        memory_mb: int = 4096,
        devices: Sequence[Mapping[str, Any]] | None = None,
        models_dir: Path | None = None,
        sim: Mapping[str, Any] | None = None,
        engine_table: Mapping[str, Any] | None = None,
        neuron_table: Mapping[str, Any] | None = None,
        place: Place | None = None,
    ) -> NeuronProcess:
        """A running neuron with one device `cpu:0` of `memory_mb`, or the given ones (none: those it finds).

        `sim` is `[engine.sim]`.
        """
        declared = [{"id": "cpu:0", "memory_mb": memory_mb}] if devices is None else devices
        home = self.folder / name
        port = free_port()
        run_dir, state_dir = home / "run", home / "state"
        (models_dir or home / "models").mkdir(parents=True, exist_ok=True)
        config = {
            "neuron": {
                "name": name,
                "listen": f"{place.address if place else LOOPBACK}:{port}",
                "run_dir": str(run_dir),
                "state_dir": str(state_dir),
                "models_dir": str(models_dir or home / "models"),
                **(neuron_table or {}),
            },
            "engine": {"kind": engine, **(engine_table or {}), **({"sim": dict(sim)} if sim else {})},
            "devices": [dict(device) for device in declared],
        }
        neuron = NeuronProcess(name, write(home / "neuron.toml", config), home / "log", port, run_dir, state_dir)
        self.processes.append(neuron)
        if place:
            neuron.live_at(place)
        neuron.start()
        return neuron

    def gateway(
        self,
        neurons: Sequence[Reached],
        models: Sequence[Mapping[str, Any]],
        *,
        name: str = "gateway",
        tables: Mapping[str, Mapping[str, Any]] | None = None,
        follows: int | None = None,
        arguments: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
        place: Place | None = None,
        kept: socket.socket | None = None,
    ) -> GatewayProcess:
        """A gateway that follows its neurons (all, or so many); `tables` go over cortex.toml's, key by key.

        `kept` is a listening socket that is passed to it as systemd does, and stays open here.
        """
        home = self.folder / name
        port, metrics_port = kept.getsockname()[1] if kept else free_port(), free_port()
        address = place.address if place else LOOPBACK
        config: dict[str, Any] = {
            "models_config": "models.toml",
            "gateway": {"listen": f"{address}:{port}", "metrics_listen": f"{address}:{metrics_port}"},
            "neurons": [{"name": neuron.name, "endpoint": neuron.url} for neuron in neurons],
        }
        for table, values in (tables or {}).items():
            config[table] = {**config.get(table, {}), **values}
        write(home / "models.toml", {"models": [dict(model) for model in models]})
        environ = {**(environ or {}), **({"LISTEN_FDS": "1"} if kept else {})}
        gateway = GatewayProcess(
            write(home / "cortex.toml", config), home / "log", port, metrics_port, arguments=arguments, environ=environ
        )
        self.processes.append(gateway)
        if kept:
            gateway.inherits = (kept.fileno(),)
            gateway.command = [sys.executable, "-c", ACTIVATE, str(kept.fileno()), *gateway.command]
        if place:
            gateway.live_at(place)
        gateway.start()
        gateway.until_follows(len(neurons) if follows is None else follows)
        return gateway

    def logs(self) -> str:
        """What every process said, for a failed test's report."""
        return "\n".join(f"── {process.name} ──\n{process.log[-8000:]}" for process in self.processes)

    def end(self) -> None:
        for process in reversed(self.processes):
            process.end()


def write(path: Path, values: Mapping[str, Any]) -> Path:
    """Values as a TOML file, its folder included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(tomli_w.dumps(values))
    return path


@contextmanager
def fleet() -> Iterator[Host]:
    """A host for processes. Its folder has a short name, since sockets live in it."""
    folder = Path(tempfile.mkdtemp(prefix="cx-", dir="/tmp"))
    host = Host(folder)
    try:
        yield host
    except BaseException:
        print(host.logs())  # noqa: T201 - pytest shows it with the failure
        raise
    finally:
        host.end()
        shutil.rmtree(folder, ignore_errors=True)

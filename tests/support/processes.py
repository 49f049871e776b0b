"""Real neurons and gateways as processes, with configurations in a temporary folder. Everything ends with its owner.

    with fleet() as host:
        beast = host.neuron("beast", sim={"load_s": 0.2})
        gateway = host.gateway([beast], models=[{"id": "tiny"}])

Start processes from the main thread only: they die with the thread that started them, so that nothing outlives a
killed test run.
"""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import tomli_w

from tests.support.ports import free_port
from tests.support.until import until

ROOT = Path(__file__).parents[2]
SOURCES = [str(path) for path in sorted((ROOT / "packages").glob("*/src"))]
START_S = 20.0  # a cold interpreter on a busy machine
ENGINE_S = 120.0  # imports of a real engine, on a busy machine
STOP_S = 10.0
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def _die_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process' environment without anything that would configure a cortex process, plus `extra`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CORTEX_", "NEURON_"))}
    path = os.pathsep.join([*SOURCES, kept["PYTHONPATH"]] if kept.get("PYTHONPATH") else SOURCES)
    return {**kept, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", **(extra or {})}


def entry_point(module: str, *arguments: str) -> list[str]:
    """The command line that the installed script of `module:main` would run."""
    return [sys.executable, "-c", f"import sys; from {module} import main; sys.exit(main())", *arguments]


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; empty when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    return _stat(pid)[:1] not in ([], ["Z"])


def parent(pid: int) -> int:
    """The pid of its parent; 0 when it is gone."""
    stat = _stat(pid)
    return int(stat[1]) if stat else 0


def children(pid: int) -> list[int]:
    """Every living descendant of a process, parents first."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and (stat := _stat(int(entry.name))) and stat[0] != "Z":
            parents.setdefault(int(stat[1]), []).append(int(entry.name))
    found: list[int] = []
    waiting = list(parents.get(pid, ()))
    while waiting:
        child = waiting.pop(0)
        found.append(child)
        waiting += parents.get(child, ())
    return found


def rss_mb(pid: int) -> float:
    """Resident memory of one process, in megabytes of 2**20 bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(pid)


LOOPBACK = "127.0.0.1"


def get(port: int, path: str, *, host: str = LOOPBACK, timeout_s: float = 5.0) -> tuple[int, bytes]:
    """Status and body of a GET."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("GET", path, headers={"connection": "close"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def get_json(port: int, path: str, *, host: str = LOOPBACK, timeout_s: float = 5.0) -> Any:
    """The JSON of a GET that must succeed."""
    status, body = get(port, path, host=host, timeout_s=timeout_s)
    assert status == 200, f"GET :{port}{path} → {status} {body[:500]!r}"
    return json.loads(body)


class Process:
    """A process in a group of its own, whose output goes to a file."""

    def __init__(self, name: str, command: Sequence[str], log: Path, environ: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.command = list(command)
        self.log_path = log
        self._environ = environ
        self._process: subprocess.Popen[bytes] | None = None
        self._family: dict[int, str] = {}  # pid → its start, in ticks

    def start(self) -> None:
        assert not self.running, f"{self.name} runs already"
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(self._environ),
                cwd=self.log_path.parent,
                process_group=0,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - one call into the kernel, no lock is taken
            )

    @property
    def pid(self) -> int:
        assert self._process, f"{self.name} was never started"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout_s: float = STOP_S) -> int:
        """Its exit code; negative: the signal that ended it."""
        assert self._process, f"{self.name} was never started"
        return self._process.wait(timeout_s)

    def kill(self) -> None:
        """SIGKILL to the process itself, as the kernel's memory killer would: its children must see to themselves."""
        self._remember()
        self.signal(signal.SIGKILL)
        self.wait()

    def stop(self, timeout_s: float = STOP_S) -> int:
        """SIGTERM, and its exit code. What does not end in time is killed, and the test fails."""
        if not self.running:
            return self.wait()
        self._remember()
        self.signal(signal.SIGTERM)
        try:
            return self.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.end()
            problem = f"{self.name} did not end within {timeout_s} s of SIGTERM"
            raise AssertionError(f"{problem}\n{self.log[-4000:]}") from None

    def end(self) -> None:
        """Kill it and everything it is known to have started, whatever state it is in."""
        if self._process is None:
            return
        self._remember()
        for pid, born in self._family.items():
            if _stat(pid)[19:20] == [born]:  # the same process still, not a later one of its number
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._process.wait()
        until(lambda: not any(alive(pid) for pid in self._family), timeout_s=STOP_S, what=f"the end of {self.name}")
        self._family.clear()

    def _remember(self) -> None:
        """Note the processes of this one, which nobody finds any more once it is gone."""
        for pid in [*children(self.pid), self.pid] if self.running else []:
            if stat := _stat(pid):
                self._family[pid] = stat[19]


class Place(Protocol):
    """Another network than ours, that processes can live in."""

    @property
    def address(self) -> str: ...

    @property
    def enter(self) -> Sequence[str]: ...  # before a command line


class Daemon(Process):
    """A process that answers `GET /health`."""

    def __init__(
        self, name: str, command: Sequence[str], log: Path, port: int, environ: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(name, command, log, environ)
        self.port = port
        self.host = LOOPBACK

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def live_at(self, place: Place) -> None:
        """Start in another network from now on."""
        self.host = place.address
        self.command = [*place.enter, *self.command]

    def start(self) -> None:
        super().start()
        try:
            until(self._answers, timeout_s=START_S, what=f"/health of {self.name}")
        except AssertionError as error:
            self.end()
            raise AssertionError(f"{error}\n{self.log[-4000:]}") from error

    def restart(self) -> None:
        """Start it again with the same configuration on the same port, as a service manager does."""
        assert not self.running, f"{self.name} still runs"
        self.start()

    def get(self, path: str, **options: float) -> Any:
        return get_json(self.port, path, host=self.host, **options)

    def _answers(self) -> bool:
        if not self.running:
            raise AssertionError(f"{self.name} ended with {self.wait()}")
        try:
            return get(self.port, "/health", host=self.host, timeout_s=2.0)[0] > 0
        except (OSError, http.client.HTTPException):
            return False


class NeuronProcess(Daemon):
    """A neuron, which answers before its engine is there; `run_dir` and `state_dir` are its own folders."""

    def __init__(self, name: str, config: Path, log: Path, port: int, run_dir: Path, state_dir: Path) -> None:
        super().__init__(name, entry_point("neuron.main", "--config", str(config)), log, port)
        self.config = config
        self.run_dir = run_dir
        self.state_dir = state_dir

    def until_engine(self, timeout_s: float = ENGINE_S) -> None:
        """Until its engine could load at once."""

        def ready() -> bool:
            engines = self.get("/health")["engines"]
            assert not any(engine.get("problem") for engine in engines), engines
            return bool(engines) and all(engine["ready"] for engine in engines)

        until(ready, timeout_s=timeout_s, poll_s=0.1, what=f"the engine of {self.name}")

    def replicas(self, model: str = "") -> list[dict[str, Any]]:
        """What it holds, as it says itself; of one model or of all."""
        return [r for r in self.get("/models")["replicas"] if not model or r["model"] == model]

    def post(self, path: str, body: Mapping[str, Any], *, timeout_s: float = 60.0) -> tuple[int, Any]:
        """Status and JSON of a command."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout_s)
        try:
            connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()


class GatewayProcess(Daemon):
    """A gateway, started by `cortex serve` as an operator would."""

    def __init__(
        self,
        config: Path,
        log: Path,
        port: int,
        metrics_port: int,
        *,
        arguments: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
    ) -> None:
        command = entry_point("cortex_cli.main", "serve", "--config", str(config), *arguments)
        super().__init__("gateway", command, log, port, environ)
        self.config = config
        self.metrics_port = metrics_port

    def until_follows(self, neurons: int, timeout_s: float = START_S) -> None:
        """Until so many neurons are up in its picture."""
        until(lambda: self._up() >= neurons, timeout_s=timeout_s, what=f"{neurons} neurons followed by {self.name}")

    def fleet(self) -> Any:
        """Its picture, as `GET /cortex/v1/fleet` has it."""
        return self.get("/cortex/v1/fleet")

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's series that carry these labels."""
        status, body = get(self.metrics_port, "/metrics", host=self.host)
        assert status == 200, body
        total = 0.0
        for line in body.decode().splitlines():
            series, _, value = line.rpartition(" ")
            wanted = all(f'{label}="{text}"' in series for label, text in labels.items())
            if series.partition("{")[0] == name and wanted:
                total += float(value)
        return total

    def _up(self) -> int:
        status, body = get(self.port, "/health", host=self.host)
        return int(json.loads(body)["neurons"]["healthy"]) if status in (200, 503) else 0


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
        neurons: Sequence[NeuronProcess],
        models: Sequence[Mapping[str, Any]],
        *,
        name: str = "gateway",
        tables: Mapping[str, Mapping[str, Any]] | None = None,
        follows: int | None = None,
        arguments: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
        place: Place | None = None,
    ) -> GatewayProcess:
        """A gateway that follows its neurons (all, or so many); `tables` go over cortex.toml's, key by key."""
        home = self.folder / name
        port, metrics_port = free_port(), free_port()
        address = place.address if place else LOOPBACK
        config: dict[str, Any] = {
            "models_config": "models.toml",
            "gateway": {"listen": f"{address}:{port}", "metrics_listen": f"{address}:{metrics_port}"},
            "neurons": [{"name": neuron.name, "endpoint": neuron.url} for neuron in neurons],
        }
        for table, values in (tables or {}).items():
            config[table] = {**config.get(table, {}), **values}
        write(home / "models.toml", {"models": [dict(model) for model in models]})
        gateway = GatewayProcess(
            write(home / "cortex.toml", config), home / "log", port, metrics_port, arguments=arguments, environ=environ
        )
        self.processes.append(gateway)
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

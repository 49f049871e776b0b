"""Cortex's daemons as real processes: a neuron, and a gateway."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tests.support.process import Process, entry_point
from tests.support.until import until

START_S = 20.0  # a cold interpreter on a busy machine
ENGINE_S = 120.0  # imports of a real engine, on a busy machine
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

    def start_unseen(self) -> None:
        """Start it, and do not wait until it answers."""
        super().start()

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


class Reached(Protocol):
    """A neuron, as a gateway is told of it."""

    @property
    def name(self) -> str: ...

    @property
    def url(self) -> str: ...


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

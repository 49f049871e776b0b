"""Fleets of real processes: one for a module with simulated engines, one for all tests with real ones."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.support import engines
from tests.support.chat import Chat, chatting
from tests.support.daemons import GatewayProcess, NeuronProcess
from tests.support.host import Host, fleet
from tests.support.until import until
from tools.tinymodel.fleet import CHECKPOINT, MODELS, make_models

BEAST, BENJY, THIRD = MODELS
NARROW = "narrow"  # serves one request at a time
GIANT = "giant"  # fits nowhere
REPLICA_MB = 600
PROFILES: list[dict[str, Any]] = [
    *({"id": model, "vram_mb": REPLICA_MB} for model in MODELS),
    {"id": NARROW, "source": BEAST, "vram_mb": REPLICA_MB, "max_in_flight": 1, "max_queue_depth": 2},
    {"id": GIANT, "source": BENJY, "vram_mb": 100_000},
]


@dataclass
class Cluster:
    """Two neurons, `beast` and `benjy`, with room for two replicas each, and a gateway before them."""

    host: Host
    gateway: GatewayProcess
    beast: NeuronProcess
    benjy: NeuronProcess
    simulated: bool

    @property
    def neurons(self) -> tuple[NeuronProcess, NeuronProcess]:
        return self.beast, self.benjy

    def replicas(self, model: str = "") -> list[tuple[NeuronProcess, dict[str, Any]]]:
        """What the neurons hold, by their own word."""
        return [(neuron, replica) for neuron in self.neurons for replica in neuron.replicas(model)]

    def home(self, model: str) -> NeuronProcess:
        """The neuron on which a model is ready."""
        [(neuron, _)] = [(n, r) for n, r in self.replicas(model) if r["state"] == "ready"]
        return neuron

    def other(self, neuron: NeuronProcess) -> NeuronProcess:
        return self.benjy if neuron is self.beast else self.beast

    def states(self, model: str) -> list[str]:
        return [replica["state"] for _, replica in self.replicas(model)]

    def leases(self) -> int:
        """Requests that hold a lease, by the neurons' own word."""
        return sum(int(replica["in_flight"]) for _, replica in self.replicas())

    def in_flight(self) -> int:
        """Requests that hold a lease or wait for one: at the neurons, and in the engines by their own count."""
        held = sum(int(replica["in_flight"]) + int(replica["queue"]) for _, replica in self.replicas())
        return held + (0 if self.simulated else sum(engines.running(neuron) for neuron in self.neurons))

    def waiting(self) -> int:
        """Requests that wait at the gateway."""
        return sum(waiting["waiters"] for waiting in self.gateway.fleet()["waiting"].values())

    def load(self, neuron: NeuronProcess, model: str) -> dict[str, Any]:
        """Have a model loaded on one neuron, and seen by the gateway."""
        profile = next(profile for profile in PROFILES if profile["id"] == model)
        status, said = neuron.post("/models/load", {"model": model, "profile": profile})
        assert status == 200, said
        until(lambda: self.on_view(neuron.name, model), what=f"{model} on {neuron.name} in the gateway's picture")
        return said["replica"]

    def empty(self) -> None:
        """Have everything unloaded, and the gateway know it."""
        for neuron, replica in self.replicas():
            status, said = neuron.post("/models/unload", {"replica": replica["id"], "mode": "cut"})
            assert status in (200, 404), said
        until(lambda: not self.replicas(), what="empty neurons")
        until(lambda: not any(n["replicas"] for n in self.gateway.fleet()["neurons"]), what="an empty picture")

    def heal(self) -> None:
        """As a service manager would have it: every process runs, and the gateway follows both neurons."""
        for neuron in self.neurons:
            if not neuron.running:
                neuron.restart()
        for neuron in self.neurons:
            neuron.until_engine()
        self.gateway.until_follows(len(self.neurons))

    def on_view(self, neuron: str, model: str) -> bool:
        """Whether the gateway sees a model ready on a neuron."""
        [view] = [n for n in self.gateway.fleet()["neurons"] if n["name"] == neuron]
        return any(r["model"] == model and r["state"] == "ready" for r in view["replicas"])

    def logs(self) -> str:
        return self.host.logs()


def start(host: Host, kind: str, models_dir: Path, **options: Any) -> Cluster:
    beast, benjy = (
        host.neuron(name, engine=kind, memory_mb=2 * REPLICA_MB + 100, models_dir=models_dir, **options)
        for name in ("beast", "benjy")
    )
    for neuron in (beast, benjy):
        neuron.until_engine()
    tables = {"gateway": {"max_body_mb": 1, "hold_s": 60.0, "hold_not_streaming_s": 60.0}}
    gateway = host.gateway([beast, benjy], PROFILES, tables=tables)
    return Cluster(host, gateway, beast, benjy, simulated=kind == "sim")


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Simulated engines: a load takes 0.4 s, the first token 0.3 s, and then 100 tokens come a second."""
    table = {"load_s": 0.4, "unload_s": 0.05, "first_token_s": 0.3, "tokens_per_s": 100.0, "weights_mb": 100}
    with fleet() as host:
        yield start(host, "sim", tmp_path_factory.mktemp("models"), sim=table)


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Real vLLM engines with the tiny model."""
    models_dir = tmp_path_factory.mktemp("models")
    make_models(CHECKPOINT, models_dir)
    with fleet() as host:
        yield start(host, "vllm", models_dir)


@pytest.fixture
def vllm(real: Cluster) -> Cluster:
    """The real fleet, whole, and nothing loaded."""
    real.heal()
    real.empty()
    return real


@pytest.fixture(params=["sim", pytest.param("vllm", marks=[pytest.mark.engine, engines.needs_vllm])])
def cluster(request: pytest.FixtureRequest) -> Cluster:
    """Either fleet, whole, and nothing loaded: what is promised is promised of both."""
    chosen: Cluster = request.getfixturevalue(request.param)
    chosen.heal()
    chosen.empty()
    return chosen


@pytest_asyncio.fixture
async def chat(request: pytest.FixtureRequest) -> AsyncIterator[Chat]:
    """A client of the gateway of the test's cluster."""
    name = next(name for name in ("cluster", "vllm", "sim") if name in request.fixturenames)
    async with chatting(request.getfixturevalue(name).gateway.url) as client:
        yield client


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What the processes said stands with the failure."""
    report = yield
    if report.failed:
        clusters = [value for value in getattr(item, "funcargs", {}).values() if isinstance(value, Cluster)]
        report.sections += [("processes", clusters[0].logs())] if clusters else []
    return report

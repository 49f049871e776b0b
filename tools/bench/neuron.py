"""`bench neuron`: the same engine behind a neuron, and behind gateway and neuron, beside stock vLLM's own server.

Same checkpoint, same flags, the real engine on the CPU. Nothing is pinned: engine and front end share the cores, as
they do on a small host. What is compared is tokens a second and TTFT, what a token costs in processor time, all
processes together, and how long a model takes to come and to go.
"""

from __future__ import annotations

import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from cortex_core.fleet import Profile
from neuron.sizing.checkpoints import read_checkpoint
from neuron.sizing.fit import need
from tools.bench.cores import cores
from tools.bench.large import make_large
from tools.bench.load import Failed, Load
from tools.bench.mock import free_port
from tools.bench.native import Missing
from tools.bench.outcome import Figures, Outcome
from tools.bench.processes import family, own_cpu_s, own_rss_mb
from tools.bench.systems import System
from tools.runner import client
from tools.runner.children import Child, Children
from tools.runner.client import BadAnswer
from tools.runner.environment import variables
from tools.runner.report import step
from tools.tinymodel.fleet import CHECKPOINT, MODELS, make_models

STOCK, NEURON, BOTH = "stock vLLM", "neuron", "gateway + neuron"
TINY, LARGE = "tiny-beast", "large"
TOKENS = 64  # of an answer, exactly: its end is ignored
CONTEXT, VRAM_MB, MEMORY_MB = 1024, 600, 2000
START_S = 300.0
ENGINE_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}


@dataclass(frozen=True, slots=True)
class Plan:
    seconds: float = 3.0  # of each run
    rounds: int = 3
    streams: tuple[int, ...] = (1, 4, 16, 64)
    loads: int = 10
    stock_starts: int = 3
    model: str = TINY


def run(plan: Plan) -> Outcome:
    """Measure everything.

    Raises:
        Missing: no engine here, or something does not start.
        Failed: something answered wrongly.
    """
    try:
        version = metadata.version("vllm-cpu")
    except metadata.PackageNotFoundError:
        raise Missing("vllm-cpu: python3 -m tools.bench makes an environment with it") from None
    outcome = Outcome(cores(), {"vllm-cpu": version})
    with (
        tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as temporary,  # a socket's path is short
        Children(Path(temporary), variables() | ENGINE_ENVIRONMENT) as children,
    ):
        host = _Host(children, Path(temporary), plan.model)
        with step("neuron and gateway"):
            host.start_ours(outcome)
        with step(f"{plan.loads} loads and unloads") as line:
            outcome.rounds += [{NEURON: host.load_and_unload()} for _ in range(plan.loads)]
            line.detail = f"median {outcome.median(NEURON, 'load_s'):.2f} s"
        for number in range(plan.stock_starts):
            with step(f"start {number + 1} of {plan.stock_starts} of stock vLLM") as line:
                outcome.rounds.append({STOCK: host.start_and_stop_stock()})
                line.detail = f"{outcome.rounds[-1][STOCK]['load_s']:.1f} s"
        with step("all three for the rounds"):
            stock = host.start_stock()
            host.load()
        systems = host.systems(stock)
        load = Load(Path(temporary), None)
        for number in range(plan.rounds):
            with step(f"round {number + 1} of {plan.rounds}"):
                turn = number % len(systems)
                order = systems[turn:] + systems[:turn]
                outcome.rounds.append(_round(load, order, plan, host.daemon))
        if plan.model == TINY:
            outcome.rounds.append({NEURON: {"rss_mb": host.rss_of_three_mb()}})
    return outcome


def _round(load: Load, systems: list[System], plan: Plan, daemon: int) -> dict[str, Figures]:
    figures: dict[str, Figures] = {system.name: {} for system in systems}
    for streams in plan.streams:
        for system in systems:
            before_s = own_cpu_s(daemon)
            ran = load.run(system, request(plan.model), streams, plan.seconds, "stream")
            tokens = ran.requests * TOKENS  # events may hold several
            figures[system.name] |= {
                f"tokens_per_s_{streams}": tokens / ran.seconds,
                f"ttft_ms_{streams}": ran.ttft_p50_ms,
                f"cpu_us_{streams}": ran.cpu_s / tokens * 1e6,
            }
            if system.name != STOCK:
                figures[system.name][f"daemon_us_{streams}"] = (own_cpu_s(daemon) - before_s) / tokens * 1e6
    return figures


def request(model: str, tokens: int = TOKENS) -> bytes:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Count to 4"}],
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }
    return json.dumps(body, separators=(",", ":")).encode()


def flags(checkpoint: Path) -> list[str]:
    """The rest of what a neuron gives its engine on a CPU, with `VRAM_MB` for the model, as command line."""
    facts = read_checkpoint(checkpoint, checkpoint.name)
    kv_mb = need(facts, Profile(id=checkpoint.name, vram_mb=VRAM_MB)).kv_mb
    return [
        *("--max-model-len", str(CONTEXT), "--kv-cache-memory-bytes", str(kv_mb << 20), "--enforce-eager"),
        *("--enable-prefix-caching", "--load-format", "safetensors", "--scheduling-policy", "priority"),
        *("--distributed-executor-backend", "vllm.v1.executor.uniproc_executor.UniProcExecutor"),
    ]


class _Host:
    """The processes of the comparison, in one folder."""

    def __init__(self, children: Children, folder: Path, model: str) -> None:
        self._model = model
        self._children = children
        self._folder = folder
        self._ports = {name: free_port() for name in (STOCK, NEURON, BOTH)}
        self._neuron: Child
        self._gateway: Child
        make_models(CHECKPOINT, folder / "models")
        make_large(folder / "models" / LARGE)

    @property
    def daemon(self) -> int:
        """The neuron's process."""
        return self._neuron.process.pid

    def start_ours(self, outcome: Outcome) -> None:
        """Neuron and gateway, with the engine's imports done and nothing loaded."""
        folder, port = self._folder, self._ports[NEURON]
        neuron, gateway, models = folder / "neuron.toml", folder / "cortex.toml", folder / "models.toml"
        neuron.write_text(
            f'[neuron]\nname = "beast"\nlisten = "127.0.0.1:{port}"\nstate_dir = "state"\nrun_dir = "run"\n'
            f'models_dir = "models"\n[engine]\nkind = "vllm"\n[[devices]]\nid = "cpu:0"\nmemory_mb = {MEMORY_MB}\n'
        )
        models.write_text(
            f'[[models]]\nid = "{self._model}"\nvram_mb = {VRAM_MB}\nmax_in_flight = 256\n'
            f"limit = {{ context = {CONTEXT} }}\n"
        )
        gateway.write_text(
            f'models_config = "models.toml"\n[gateway]\nlisten = "127.0.0.1:{self._ports[BOTH]}"\n'
            f'metrics_listen = "127.0.0.1:{free_port()}"\n'
            f'[[neurons]]\nname = "beast"\nendpoint = "http://127.0.0.1:{port}"\n'
        )
        python = sys.executable
        code = "import sys; from neuron.main import main; sys.exit(main())"
        began = time.monotonic()
        self._neuron = self._children.start("neuron", python, "-c", code, "--config", str(neuron))
        _until(self._up, START_S, self._neuron)
        outcome.rounds.append({NEURON: {"up_s": time.monotonic() - began}})
        self._gateway = self._children.start("gateway", python, "-m", "cortex_cli", "serve", "--config", gateway)
        _until(self._engine_ready, START_S, self._neuron)

    def load(self) -> None:
        """The model, by way of a first request: the gateway sees to it."""
        client.chat(self._ports[BOTH], self._model, "Who are you?")

    def load_and_unload(self) -> Figures:
        """From the command to the first token, and from the command to memory given back."""
        port = self._ports[NEURON]
        profile = {"id": self._model, "vram_mb": VRAM_MB, "max_in_flight": 256, "limit": {"context": CONTEXT}}
        began = time.monotonic()
        done = client.post(port, "/models/load", {"model": self._model, "profile": profile})
        if "replica" not in done:
            raise Failed(f"load: {done}")
        first = client.chat(port, self._model, "Who are you?", max_tokens=1)
        loaded_s = time.monotonic() - began - (first.seconds - first.ttft_s)
        began = time.monotonic()
        client.post(port, "/models/unload", {"replica": done["replica"]["id"], "mode": "cut"})
        return {"load_s": loaded_s, "unload_s": time.monotonic() - began}

    def start_stock(self) -> Child:
        """Stock vLLM's own server, ready."""
        module = "vllm.entrypoints.openai.api_server"
        model = ["--model", str(self._folder / "models" / self._model), "--served-model-name", self._model]
        address = ["--host", "127.0.0.1", "--port", str(self._ports[STOCK])]
        quiet = ["--uvicorn-log-level", "warning"]
        rest = flags(self._folder / "models" / self._model)
        child = self._children.start("stock", sys.executable, "-m", module, *model, *address, *quiet, *rest)
        _until(lambda: self._answers(STOCK), START_S, child)
        return child

    def start_and_stop_stock(self) -> Figures:
        began = time.monotonic()
        child = self.start_stock()
        loaded_s = time.monotonic() - began
        processes = family(child.process.pid)
        began = time.monotonic()
        child.process.send_signal(signal.SIGTERM)
        child.process.wait(60)
        _until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in processes), 60, None)
        return {"load_s": loaded_s, "unload_s": time.monotonic() - began}

    def systems(self, stock: Child) -> list[System]:
        ours = (self._neuron.process.pid, self._gateway.process.pid)
        return [
            System(STOCK, "", self._ports[STOCK], (stock.process.pid,)),
            System(NEURON, "", self._ports[NEURON], ours[:1]),
            System(BOTH, "", self._ports[BOTH], ours),
        ]

    def _answers(self, name: str) -> bool:
        try:
            client.chat(self._ports[name], self._model, "Who are you?", max_tokens=1)
        except (OSError, BadAnswer):
            return False
        return True

    def _health(self) -> Any:
        try:
            return json.loads(client.get(self._ports[NEURON], "/health"))
        except (OSError, BadAnswer):
            return {}

    def _up(self) -> bool:
        return bool(self._health())

    def _engine_ready(self) -> bool:
        engines = self._health().get("engines")
        return bool(engines and engines[0]["ready"])

    def rss_of_three_mb(self) -> float:
        """The daemon's own memory, after all that it has done and with three models loaded."""
        for model in MODELS:
            profile = {"id": model, "vram_mb": VRAM_MB, "limit": {"context": CONTEXT}}
            client.post(self._ports[NEURON], "/models/load", {"model": model, "profile": profile})
        return own_rss_mb(self.daemon)


def _until(holds: Callable[[], bool], timeout_s: float, child: Child | None) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        if child is not None and child.ended:
            raise Missing(f"{child.name} ended:\n{child.last_lines()}")
        if time.monotonic() > deadline:
            raise Missing(f"{child.name if child else 'an end'} took over {timeout_s:g} s")
        time.sleep(0.02)

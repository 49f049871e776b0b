"""States of a neuron in which something is wrong, and what `/health` and `/models` say of each within 2 s.

The rule of all: whoever reads `/health` sees `impaired` and the reason; a replica that cannot answer is not `ready` in
`/models`, or not `ok` in `/health`; what is beside it is shown as it is.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from cortex_core.config.neuron import DeviceEntry, NeuronConfig
from cortex_core.fleet import State
from cortex_core.http import BrokenResponse, Client
from cortex_core.neuron_api import Health, Report
from tests.neuron.contract.conftest import REPLICA_MB, SIM_MODELS, running, sim_config
from tests.neuron.contract.subject import Subject
from tests.support.until import until_async

RIGHT_WITHIN_S = 2.0
MODEL, SIBLING, _ = SIM_MODELS


class Stage:
    """A neuron, and the requests that a fault needs, which end with it."""

    def __init__(self, subject: Subject, group: asyncio.TaskGroup, folder: Path) -> None:
        self.subject = subject
        self.folder = folder
        self._group = group
        self._asked: list[asyncio.Task[None]] = []

    def say(self, model: str, words: str) -> None:
        """A request whose prompt makes the simulated engine misbehave."""
        body = self.subject.chat(model, 50, stream=True) | {"messages": [{"role": "user", "content": words}]}
        self._ask("/v1/chat/completions", body)

    def load(self, model: str) -> None:
        """A load that nobody waits for."""
        self._ask("/models/load", {"model": model, "profile": self.subject.profile(model)})

    def _ask(self, path: str, body: object) -> None:
        async def asked() -> None:
            with contextlib.suppress(BrokenResponse):
                await self.subject.call("POST", path, body)

        self._asked.append(self._group.create_task(asked()))

    def close(self) -> None:
        for task in self._asked:
            task.cancel()


@asynccontextmanager
async def stage(config: NeuronConfig, folder: Path) -> AsyncIterator[Stage]:
    async with running(config) as neuron, asyncio.TaskGroup() as group:
        client = Client(f"http://{neuron.address}", connect_timeout_s=10)
        made = Stage(Subject(client, SIM_MODELS, REPLICA_MB), group, folder)
        yield made
        made.close()
        await client.close()


@dataclass(frozen=True)
class Fault:
    """How it comes about, and what must be said of it."""

    begins: Callable[[Stage], Awaitable[None]]
    problem: str  # in `/health`
    state: State | None = None  # of the model's replica; None: it has none
    config: dict[str, Any] = field(default_factory=dict)  # of [engine]
    sim: dict[str, Any] = field(default_factory=dict)
    seen: Callable[[Report], bool] = lambda _report: True  # in `/models`


async def dies(stage: Stage) -> None:
    await stage.subject.load(MODEL)
    stage.say(MODEL, "!die")


async def dies_twice(stage: Stage) -> None:
    replica = await stage.subject.load(MODEL)
    stage.say(MODEL, "!die")

    async def again() -> bool:
        found = await stage.subject.replica(MODEL)
        return found is not None and found.state is State.READY and found.version > replica.version

    await until_async(again)
    stage.say(MODEL, "!die")


async def hangs(stage: Stage) -> None:
    await stage.subject.load(MODEL)
    stage.say(MODEL, "!hang")


async def load_is_tried(stage: Stage) -> None:
    stage.load(MODEL)


async def is_pinned(stage: Stage) -> None:
    await stage.subject.command("/models/pin", model=MODEL, pinned=True)


async def is_cordoned(stage: Stage) -> None:
    await stage.subject.load(MODEL)
    await stage.subject.command("/cordon", reason="a new fan")


async def state_cannot_be_written(stage: Stage) -> None:
    (stage.folder / "state" / "state.new").mkdir()
    await stage.subject.load(MODEL)


def failed(scope: str = "model") -> Callable[[Report], bool]:
    return lambda report: [(f.model, f.scope, f.retry_in_s > 0) for f in report.failures] == [(MODEL, scope, True)]


FAULTS = {
    "its engine dies and comes back": Fault(dies, "started again: the prompt", State.LOADING, sim={"load_s": 3.0}),
    "its engine dies again": Fault(dies_twice, "the prompt", State.RECOVERING, seen=failed("device")),
    "its engine hangs": Fault(hangs, "no token for", State.READY, {"stall_s": 60.0}),
    "its engine hangs and is ended": Fault(
        hangs, "started again: it hangs", State.LOADING, {"stall_s": 0.5}, {"load_s": 3.0}
    ),
    "its load fails": Fault(load_is_tried, "weights: ", None, sim={"fail_at": "weights"}, seen=failed()),
    "its load hangs": Fault(load_is_tried, "no progress of its load", State.LOADING, sim={"load_s": 900.0}),
    "its load hangs and is given up": Fault(
        load_is_tried, "it hangs: given up", None, {"load_deadline_s": 0.5}, {"load_s": 900.0}, failed()
    ),
    "it is pinned and its load fails": Fault(
        is_pinned, f"{MODEL} is not kept loaded: ", None, sim={"fail_at": "config"}, seen=failed()
    ),
    "it is pinned and too large": Fault(
        is_pinned,
        f"{MODEL} is not kept loaded: ",
        sim={"weights_mb": 100_000},
        seen=lambda report: report.pins == {MODEL: True},
    ),
    "the neuron is cordoned": Fault(is_cordoned, "cordoned: a new fan", State.READY, seen=lambda r: r.cordoned),
    "what it learns cannot be written": Fault(state_cannot_be_written, "cannot be written", State.READY),
}


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that take half a minute in earnest."""
    monkeypatch.setattr("neuron.supervisor.reports.SLOW_S", 0.5)
    monkeypatch.setattr("neuron.supervisor.reports.SLOW_LOAD_S", 0.5)


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_a_fault_is_told_within_two_seconds(short_path: Path, fault: Fault) -> None:
    config = sim_config(short_path)
    sim = replace(config.engine.sim, **fault.sim)
    engine = replace(config.engine, sim=sim, **fault.config)
    async with stage(replace(config, engine=engine), short_path) as at:
        assert (await at.subject.get("/health", Health)).status == "ok"
        await fault.begins(at)
        began = asyncio.get_running_loop().time()

        async def right() -> bool:
            health, report = await at.subject.get("/health", Health), await at.subject.report()
            states = [replica.state for replica in report.replicas]
            told = any(fault.problem in problem for problem in health.problems)
            shown = states == ([fault.state] if fault.state else []) and fault.seen(report)
            return health.status == "impaired" and told and shown

        await until_async(right, timeout_s=RIGHT_WITHIN_S + 1)
        told_s = asyncio.get_running_loop().time() - began
        print(f"\n{fault.problem}: told after {told_s:.2f} s")  # noqa: T201 - the figure
        assert told_s <= RIGHT_WITHIN_S


def no_engine(config: NeuronConfig) -> NeuronConfig:
    return config


def no_such_device(config: NeuronConfig) -> NeuronConfig:
    return replace(config, devices=(DeviceEntry(id="cuda:7", memory_mb=1000),))


def no_model_folder(config: NeuronConfig) -> NeuronConfig:
    return replace(config, neuron=replace(config.neuron, models_dir="/nowhere"))


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (no_engine, "no engine here: run neuron-setup"),
        (no_such_device, "cuda:7 is not on this host"),
        (no_model_folder, "models_dir /nowhere is not there"),
    ],
)
async def test_what_is_missing_from_the_beginning_is_told(
    short_path: Path, spoil: Callable[[NeuronConfig], NeuronConfig], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neuron.installed.PACKAGES", ())  # as where none is installed
    config = sim_config(short_path)
    config = replace(config, engine=replace(config.engine, kind="vllm"))
    async with stage(spoil(config), short_path) as at:

        async def told() -> bool:
            health = await at.subject.get("/health", Health)
            return health.status == "impaired" and any(problem in found for found in health.problems)

        await until_async(told, timeout_s=RIGHT_WITHIN_S)
        assert (await at.subject.report()).replicas == ()
        answer = await at.subject.try_load(MODEL)
        assert (answer.status, answer.refusal.code) == (503, "engine_unavailable")

"""The owners of this host's devices: exactly one for each device, and one for each group that tensor parallel needs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from cortex_core.config import NeuronConfig
from cortex_core.neuron_api import EngineInfo
from neuron.engines.base import Engine, EngineFailed, EngineOwner, Finished, LoadSpec, Progress
from neuron.engines.sim import SimOwner
from neuron.installed import Installed, installed

Spawn = Callable[[Coroutine[Any, Any, None]], object]


class Owner(Protocol):
    """An owner whose processes are kept by a task of the daemon."""

    async def run(self) -> None: ...
    async def load(
        self, spec: LoadSpec, on_progress: Callable[[Progress], None], on_finished: Callable[[Finished], None]
    ) -> Engine: ...
    def describe(self) -> dict[str, Any]: ...
    def knows(self, architecture: str, /) -> bool: ...
    async def close(self, grace_s: float = 0.0) -> None: ...


class Owners:
    """Makes owners when their devices are known, and gives each load its turn on them.

    Args:
        spawn: gives an owner's `run` to the daemon's task group.
    """

    def __init__(self, config: NeuronConfig, spawn: Spawn) -> None:
        self._config = config
        self._spawn = spawn
        self._owners: dict[tuple[str, ...], Owner] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._closed = False
        self.replicas_expected = 1
        self._installed = Installed() if config.engine.kind == "sim" else installed(Path(config.neuron.state_dir))

    @property
    def problem(self) -> str:
        """Why no model can be loaded at all; empty when one can."""
        return self._installed.problem

    def prepare(self, devices: tuple[str, ...]) -> None:
        """Start the owners of single devices, so that a first load finds them warm."""
        if not self.problem:
            for device in devices:
                self._owner((device,))

    @asynccontextmanager
    async def turn(self, devices: tuple[str, ...]) -> AsyncIterator[None]:
        """Alone on these devices: a group's devices have owners of their own, and loads there are not to meet."""
        async with AsyncExitStack() as alone:
            for device in sorted(devices):
                await alone.enter_async_context(self._locks.setdefault(device, asyncio.Lock()))
            yield

    async def load(
        self, spec: LoadSpec, on_progress: Callable[[Progress], None], on_finished: Callable[[Finished], None]
    ) -> Engine:
        """As `EngineOwner.load`, on the owner of the devices that the spec names. Within their `turn`."""
        return await self._owner(spec.devices).load(spec, on_progress, on_finished)

    def unknown(self, architecture: str) -> str:
        """Why no engine here could load it; empty: one may."""
        if not architecture or all(owner.knows(architecture) for owner in self._owners.values()):
            return ""
        return f"{self._config.engine.kind} {self._installed.version} does not know the architecture {architecture}"

    def describe(self) -> tuple[EngineInfo, ...]:
        simulated = self._config.engine.kind == "sim"
        states = [owner.describe() for owner in self._owners.values()]
        ready = simulated or (bool(states) and all(state.get("state") == "ready" for state in states))
        problem = self.problem or "; ".join(
            str(state["detail"]) for state in states if state.get("state") == "failed" and state.get("detail")
        )
        return (
            EngineInfo(
                kind=self._config.engine.kind,
                version=self._installed.version,
                ready=ready,
                problem=problem,
                simulated=simulated,
            ),
        )

    async def close(self, grace_s: float) -> None:
        """End every engine and every owner."""
        self._closed = True
        async with asyncio.TaskGroup() as group:
            for owner in self._owners.values():
                group.create_task(owner.close(grace_s))

    def _owner(self, devices: tuple[str, ...]) -> EngineOwner:
        if devices not in self._owners:
            if self._closed:
                raise EngineFailed("fork", "the neuron ends", "neuron")
            owner = self._owners[devices] = self._make(devices)
            self._spawn(owner.run())
        return self._owners[devices]

    def _make(self, devices: tuple[str, ...]) -> Owner:
        if self._config.engine.kind == "sim":
            return SimOwner(self._config.engine.sim)
        from neuron.hardware.devices import DeviceOwner

        state_dir = Path(self._config.neuron.state_dir)
        for folder in ("cache", "logs"):
            (state_dir / folder).mkdir(parents=True, exist_ok=True)
        return DeviceOwner(
            devices,
            python=self._installed.python,
            environment=engine_environment(),
            cache_dir=state_dir / "cache",
            log_dir=state_dir / "logs",
            threads=max(1, (os.cpu_count() or 1) // self.replicas_expected),
        )


def engine_environment() -> dict[str, str]:
    """The daemon's, without its secrets: an engine needs none of them."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("NEURON_", "CORTEX_"))}

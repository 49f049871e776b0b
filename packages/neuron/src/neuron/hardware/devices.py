"""The owner of one device, or of a group of like devices: all loads and unloads on it go through here, one at a time.

It keeps a zygote for the device and starts it again when it dies. Nothing here imports an engine.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from neuron.engines.base import EngineFailed, Finished, LoadSpec, Progress, family
from neuron.engines.events import sockets_folder
from neuron.engines.hosted import HostedEngine
from neuron.zygote import wire
from neuron.zygote.client import Zygote, ZygoteGone

ENGINE_MODULE = "neuron.engines.vllm"
SOCKET_PATH = 107  # bytes of a unix socket's path, unix(7)
_ENGINE_SOCKET = 37  # what the engine appends to its folder: a slash and a UUID
_RESTART_S = (0.0, 1.0, 5.0, 15.0, 60.0)  # before the first, second, ... start after one that ended too soon
_STABLE_S = 60.0  # ready for so long: not too soon
_CLOSED = "the neuron is shutting down"
_PROGRESS_S = 0.5  # between two looks at a zygote that starts


class DeviceOwner:
    """Implements `EngineOwner`. `run` keeps the zygote; start it as a task of the daemon's task group."""

    def __init__(
        self,
        devices: Sequence[str],
        *,
        python: str,
        environment: Mapping[str, str],
        cache_dir: Path,
        log_dir: Path,
        threads: int = 1,
        module: str = ENGINE_MODULE,
    ) -> None:
        """
        Args:
            devices: ids of this owner's devices; several: for tensor parallelism over all of them.
            python: the interpreter that has the engine installed.
            environment: the whole environment of the engine's processes.
            cache_dir: what the engine compiles and learns; kept over restarts.
            log_dir: for the zygote's own log.
            threads: of each engine's arithmetic on the CPU: cores ÷ replicas, at least 1.
            module: the engine module that the zygote forks.
        """
        self._setup = wire.Setup(module=module, devices=tuple(devices), cache_dir=str(cache_dir), threads=threads)
        self._python = python
        self._environment = dict(environment)
        self._log = log_dir / f"zygote-{'-'.join(devices).replace(':', '').replace('/', '_')}.log"
        self._lock = asyncio.Lock()
        self._zygote: Zygote | None = None
        self._engines: dict[str, HostedEngine] = {}
        self._closed = asyncio.Event()
        self._changed = asyncio.Event()  # set at each change of the zygote, then replaced
        self._resting = ""  # why there is no zygote, while one more start would fail the same way
        self._ready: wire.Ready | None = None
        self._families: frozenset[str] = frozenset()
        self._restarts = 0

    # The zygote

    async def run(self) -> None:
        """Keep a zygote until `close`. Ends with everything that it forked gone."""
        failures = 0
        while not self._closed.is_set():
            zygote = Zygote(self._report)
            try:
                await zygote.start(self._python, self._setup, self._environment, self._log)
                self._zygote = zygote
                self._note()
                await zygote.wait()
            finally:
                self._lose(zygote)
            lived_s = time.monotonic() - zygote.ready_at if zygote.ready_at else 0.0
            failures = 0 if lived_s >= _STABLE_S else failures + 1
            if self._closed.is_set():
                return
            self._restarts += 1
            delay_s = _RESTART_S[min(failures, len(_RESTART_S)) - 1] if failures else 0.0
            if delay_s:
                await self._rest(delay_s, zygote.gone.result())

    async def _rest(self, delay_s: float, reason: str) -> None:
        self._resting = reason
        self._note()
        try:
            async with asyncio.timeout(delay_s):
                await self._closed.wait()
        except TimeoutError:
            pass
        finally:
            self._resting = ""

    def _note(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _lose(self, zygote: Zygote) -> None:
        zygote.kill()
        reason = zygote.gone.result() if zygote.gone.done() else "the owner was stopped"
        self._ready = None
        self._zygote = None
        for engine in list(self._engines.values()):
            engine.orphaned(reason)
        self._engines.clear()

    def _report(self, report: wire.Report) -> None:
        match report:
            case wire.Ready():
                self._ready = report
                self._families = frozenset(report.families)
            case wire.Forked() if report.replica in self._engines:
                self._engines[report.replica].forked(report.pid)
            case wire.Exited() if report.replica in self._engines:
                self._engines.pop(report.replica).exited(report.code)

    # The interface

    async def load(
        self,
        spec: LoadSpec,
        on_progress: Callable[[Progress], None],
        on_finished: Callable[[Finished], None],
    ) -> HostedEngine:
        if len(str(sockets_folder(spec.socket)).encode()) + _ENGINE_SOCKET > SOCKET_PATH:
            raise EngineFailed("fork", f"run_dir is too long for the engine's sockets: {spec.socket.parent}", "neuron")
        async with self._lock:
            zygote = await self._until_ready(on_progress)
            if spec.replica in self._engines:
                raise ValueError(f"replica {spec.replica} is already there")
            on_progress(Progress(phase="fork"))
            engine = HostedEngine(spec, zygote, self._lock, on_progress, on_finished)
            self._engines[spec.replica] = engine
            engine.start()
            await engine.serving()
            return engine

    async def _until_ready(self, on_progress: Callable[[Progress], None]) -> Zygote:
        """The zygote, once it is ready. Raises EngineFailed when it ends instead, or when it did so before."""
        while self._zygote is None:
            if self._closed.is_set():
                raise EngineFailed("fork", _CLOSED, "neuron")
            if self._resting:
                raise EngineFailed("fork", self._resting, "device")
            await self._changed.wait()
        zygote = self._zygote
        told: wire.Preloading | None = None
        while not zygote.ready.done():
            if (step := zygote.preloading) is not told:
                told = step
                words = f"the zygote imports {step.step}"
                on_progress(Progress(phase="fork", done=step.done / step.total, detail=words))
            await asyncio.wait((zygote.ready,), timeout=_PROGRESS_S)
        try:
            zygote.ready.result()
        except ZygoteGone as gone:
            raise EngineFailed("fork", str(gone), "device") from gone
        if self._closed.is_set():
            raise EngineFailed("fork", _CLOSED, "neuron")
        return zygote

    def knows(self, architecture: str) -> bool:
        """Whether its engine may be able to load it. Until it is ready nobody can tell."""
        return not self._families or family(architecture) in self._families

    def describe(self) -> dict[str, Any]:
        """`state`: starting, ready, failed or closed; `detail` in words."""
        ready, zygote = self._ready, self._zygote
        described: dict[str, Any] = {
            "devices": list(self._setup.devices),
            "engine": self._setup.module.rsplit(".", 1)[-1],
            "restarts": self._restarts,
            "replicas": sorted(self._engines),
        }
        if self._closed.is_set():
            return described | {"state": "closed", "detail": ""}
        if zygote is None:
            return described | {"state": "failed" if self._resting else "starting", "detail": self._resting}
        described["zygote_pid"] = zygote.pid
        if ready is None:
            step = zygote.preloading
            return described | {"state": "starting", "detail": f"imports {step.step} ({step.done} of {step.total})"}
        described |= {
            "version": ready.version,
            "platform": ready.platform,
            "start_s": ready.seconds,
            "forks": ready.forks,
        }
        detail = "" if ready.forks else f"loads start a fresh interpreter, for {ready.reason}"
        return described | {"state": "ready", "detail": detail, "problems": list(ready.problems)}

    async def close(self, grace_s: float = 0.0) -> None:
        """End every engine, all at once and with this much time for what runs, then the zygote. `run` returns then."""
        self._closed.set()
        self._note()
        engines = list(self._engines.values())
        async with asyncio.TaskGroup() as group:
            for engine in engines:
                group.create_task(engine.end(grace_s))
        zygote = self._zygote
        if zygote is not None:
            zygote.close()
            await asyncio.wait((zygote.gone,), timeout=5.0)
            zygote.kill()

"""The engine host: one process for each replica, forked from its device's zygote.

It builds vLLM's AsyncLLM, which forks the engine core, and serves vLLM's own HTTP application on a unix socket until it
is asked to end, or the core dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import uvicorn
import uvloop
from msgspec import structs

from cortex_core.fleet import ModelFacts
from neuron.engines.base import Facts, LoadSpec
from neuron.engines.events import Emitter, decode_request, sockets_folder
from neuron.engines.vllm import adapter, arguments, hooks, inspection, knowing, sleep, usage

_DEATH_NOTICE_S = 1.0  # what requests in flight get to tell their clients of an end
_SHUTDOWN_S = 5.0  # what the engine core gets


def main(request: str, events: int) -> None:
    """Be the replica that `request` (a LoadSpec) describes. Exit code 0 only after an asked-for end."""
    emit = Emitter(events)
    spec: LoadSpec = decode_request(request, LoadSpec)
    _keep_files_in(sockets_folder(spec.socket))
    with emit.failures(hooks.scope_of):
        engine, args = _build(spec, emit)
        sys.exit(uvloop.run(_serve(spec, engine, args, emit)))


def _keep_files_in(folder: Path) -> None:
    """What vLLM puts on disk for its own processes goes with the replica: the daemon removes the folder."""
    os.environ["VLLM_RPC_BASE_PATH"] = os.environ["TMPDIR"] = str(folder)
    tempfile.tempdir = None  # read TMPDIR again


def _build(spec: LoadSpec, emit: Emitter) -> tuple[Any, Namespace]:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    emit.progress("config")
    checkpoint = spec.checkpoint
    if checkpoint is None or not (checkpoint / "config.json").is_file():  # vLLM would ask the Hub for it
        raise FileNotFoundError(f"no model at {checkpoint}: it has no config.json")
    inspection.install()
    args = arguments.build(spec, _total_memory_mb())
    config = AsyncEngineArgs.from_cli_args(args).create_engine_config()
    emit.progress("engine")
    hooks.install(emit, checkpoint)
    return AsyncLLM.from_vllm_config(config, disable_log_stats=args.disable_log_stats), args


def _total_memory_mb() -> int:
    if adapter.platform() == "cpu":
        return 0
    from vllm.platforms import current_platform

    return int(current_platform.get_device_total_memory()) >> 20  # NVML's figure: CUDA stays untouched here


class _Server(uvicorn.Server):
    """uvicorn, but it tells when it has started, and leaves signals alone: it would end the process too early."""

    on_started: Callable[[], None]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.on_started()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _serve(spec: LoadSpec, engine: Any, args: Namespace, emit: Emitter) -> int:
    serving = adapter.serving()
    tasks = await engine.get_supported_tasks()
    app = serving.build_app(args, tasks, engine.model_config)
    await serving.init_app_state(engine, app.state, args, tasks)
    usage.meter_engine(engine)
    can_sleep = sleep.available(engine)
    server = _Server(
        uvicorn.Config(
            sleep.obey(usage.meter_app(app, emit.finished), engine, can_sleep),
            uds=str(spec.socket),
            lifespan="off",  # vLLM's own only logs statistics
            log_level="error",
            access_log=False,
            timeout_keep_alive=3600,  # the daemon's pool decides
        )
    )
    app.state.server = server  # vLLM ends it when a request finds the engine dead
    cores = [process.pid for process in engine.engine_core.resources.engine_manager.processes]
    asked = _obey_signals(server)
    deaths = _watch(cores, server, emit, asked)
    assert spec.checkpoint is not None
    model = knowing.of(engine, spec.checkpoint, args)
    facts = structs.replace(_facts(engine, tasks, cores, model), can_sleep=can_sleep)
    server.on_started = lambda: emit.serving(facts)
    await server.serve()
    await _cut(server)
    if not deaths:
        engine.shutdown(timeout=_SHUTDOWN_S)
    return 0 if asked and not deaths else 1


async def _cut(server: uvicorn.Server) -> None:
    """End the requests that still run, so that their usage is told. Their clients see a broken connection."""
    if tasks := set(server.server_state.tasks):
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=_DEATH_NOTICE_S)


def _facts(engine: Any, tasks: tuple[str, ...], cores: list[int], model: ModelFacts) -> Facts:
    cache = engine.vllm_config.cache_config
    tokens = getattr(cache, "kv_cache_size_tokens", None)
    if tokens is None:  # before 0.32
        tokens = (cache.num_gpu_blocks or 0) * cache.block_size
    return Facts(
        context=engine.model_config.max_model_len,
        kv_tokens=tokens,
        tasks=tuple(tasks),
        model=model,
        pids=(os.getpid(), *cores),
    )


def _obey_signals(server: uvicorn.Server) -> list[int]:
    """SIGTERM: finish what runs, then end. SIGINT: end now. Returns the list of those that have come."""
    asked: list[int] = []
    loop = asyncio.get_running_loop()

    def drain() -> None:
        asked.append(signal.SIGTERM)
        server.should_exit = True

    def stop() -> None:
        asked.append(signal.SIGINT)
        server.should_exit = server.force_exit = True

    loop.add_signal_handler(signal.SIGTERM, drain)
    loop.add_signal_handler(signal.SIGINT, stop)
    return asked


def _watch(cores: list[int], server: uvicorn.Server, emit: Emitter, asked: list[int]) -> list[int]:
    """End when an engine core does. vLLM itself notices only with the next request."""
    loop = asyncio.get_running_loop()
    deaths: list[int] = []

    def dead(core: int, pidfd: int) -> None:
        loop.remove_reader(pidfd)
        os.close(pidfd)
        deaths.append(core)
        if not asked:
            emit.failed("the engine core died", phase="serving")
        server.should_exit = True
        loop.call_later(_DEATH_NOTICE_S, setattr, server, "force_exit", True)

    for core in cores:
        pidfd = os.pidfd_open(core)
        loop.add_reader(pidfd, dead, core, pidfd)
    return deaths

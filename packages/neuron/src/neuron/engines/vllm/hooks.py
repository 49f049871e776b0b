"""What is put around vLLM in the engine core and its workers: progress, the first cause of a failure, and a quick end.

Installed in the engine host before it forks the core, so that every process below has it.
"""

from __future__ import annotations

import functools
import gc
import multiprocessing
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from neuron.engines.events import Emitter
from neuron.zygote.child import SHARED_MEMORY
from neuron.zygote.parent import die_with_parent

_WORKER_PHASES = {
    "init_device": "device",
    "load_model": "weights",
    "determine_available_memory": "profile",
    "initialize_from_config": "kv_cache",
    "compile_or_warm_up_model": "warmup",
}
_THEN = {"profile": "kv_cache"}  # between the two the core divides the memory, and finds that it is too little
_CAPTURES_GRAPHS = ("vllm.v1.worker.gpu_model_runner", "vllm.v1.worker.gpu.cudagraph_utils")  # each in its version
_TICK_S = 0.1  # between two reports of bytes


def install(emit: Emitter, checkpoint: Path) -> None:
    """Hook the classes that the engine core will use. `emit` is inherited by every process of the engine."""
    _fork_children()
    _hook_core(emit)
    _hook_workers(emit)
    _hook_weights(emit, checkpoint)
    for module in filter(None, map(sys.modules.get, _CAPTURES_GRAPHS)):
        _hook_bars(module, lambda number, of: emit.progress("warmup", number / of, f"graph {number} of {of}"))


def _fork_children() -> None:
    """Core and workers are forked: the host has no CUDA and only idle threads when it forks the core."""
    from vllm.v1.engine import utils
    from vllm.v1.executor import multiproc_executor

    def fork() -> Any:
        return multiprocessing.get_context("fork")

    utils.get_mp_context = fork
    multiproc_executor.get_mp_context = fork
    if hasattr(multiproc_executor, "get_file_store_init_method"):  # on a CPU, shared memory is named after this file
        multiproc_executor.get_file_store_init_method = _meeting_point


def _meeting_point() -> str:
    name = SHARED_MEMORY.format(pid=os.getpgrp()) + uuid.uuid4().hex
    return f"file://{tempfile.gettempdir()}/{name}"


def _hook_core(emit: Emitter) -> None:
    from vllm.v1.engine.core import EngineCoreProc

    host = os.getpid()
    run = EngineCoreProc.run_engine_core

    def run_engine_core(*args: Any, **kwargs: Any) -> None:
        die_with_parent(host)
        code = 1
        try:
            with emit.failures(scope_of):  # vLLM itself has logged it by then
                run(*args, **kwargs)
            code = 0
        except SystemExit as exit_:
            code = 0 if exit_.code in (None, 0) else 1
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)  # finalising the heap takes a second

    def shutdown(self: Any) -> None:
        """Let go of executor and scheduler; the process ends right after, so the heap is the kernel's."""
        if self.model_executor:
            self.model_executor.shutdown()
        if self.scheduler:
            self.scheduler.shutdown()

    EngineCoreProc.run_engine_core = staticmethod(run_engine_core)
    EngineCoreProc.shutdown = shutdown


def _hook_workers(emit: Emitter) -> None:
    from vllm.v1.executor.multiproc_executor import WorkerProc
    from vllm.v1.worker.worker_base import WorkerWrapperBase

    init_worker = WorkerWrapperBase.init_worker
    make_worker_process = WorkerProc.make_worker_process
    worker_main = WorkerProc.worker_main

    def hooked_init(self: Any, all_kwargs: list[dict[str, Any]]) -> None:
        rank = all_kwargs[self.rpc_rank].get("rank", 0)
        _phase(emit, "device", lambda: init_worker(self, all_kwargs), rank=rank)
        for method, phase in _WORKER_PHASES.items():
            setattr(self.worker, method, _in_phase(emit, phase, getattr(self.worker, method), rank=rank))
        self.worker.shutdown = _without_collecting(self.worker.shutdown)

    def hooked_make(*args: Any, **kwargs: Any) -> Any:
        core = os.getpid()

        def bound_main(*args: Any, **kwargs: Any) -> None:
            die_with_parent(core)
            worker_main(*args, **kwargs)

        WorkerProc.worker_main = staticmethod(bound_main)
        return make_worker_process(*args, **kwargs)

    WorkerWrapperBase.init_worker = hooked_init
    WorkerProc.make_worker_process = staticmethod(hooked_make)


def _without_collecting(shutdown: Callable[[], None]) -> Callable[[], None]:
    """vLLM collects the whole heap twice (0.5 s) so that an engine can end inside a process that goes on. Ours ends."""

    def hooked() -> None:
        gc.collect = gc.unfreeze = lambda *_: 0  # type: ignore[assignment]
        shutdown()

    return hooked


def _in_phase(emit: Emitter, phase: str, method: Callable[..., Any], *, rank: int) -> Callable[..., Any]:
    @functools.wraps(method)
    def hooked(*args: Any, **kwargs: Any) -> Any:
        return _phase(emit, phase, lambda: method(*args, **kwargs), rank=rank)

    return hooked


def _phase(emit: Emitter, phase: str, work: Callable[[], Any], *, rank: int) -> Any:
    """Every rank goes through the same phases: the first one reports, whichever fails tells."""
    if rank == 0:
        emit.progress(phase)
    else:
        emit.phase = phase
    with emit.failures(scope_of):
        result = work()
    emit.phase = _THEN.get(phase, phase)
    return result


def _hook_bars(module: Any, tell: Callable[[int, int], None]) -> None:
    """Tell what a module of vLLM's shows as a progress bar: the item that is next, from 1, of how many."""

    class Told(module.tqdm):
        def __iter__(self) -> Iterator[Any]:
            for number, item in enumerate(super().__iter__(), 1):
                if self.total:
                    tell(number, int(self.total))
                yield item

    module.tqdm = Told


def _hook_weights(emit: Emitter, checkpoint: Path) -> None:
    from vllm.model_executor.model_loader import weight_utils
    from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

    get_all_weights = DefaultModelLoader.get_all_weights
    total = sum(file.stat().st_size for file in checkpoint.glob("*.safetensors"))
    file = ""

    def next_file(number: int, of: int) -> None:
        nonlocal file
        file = f", file {number} of {of}"

    _hook_bars(weight_utils, next_file)

    def hooked(self: Any, *args: Any, **kwargs: Any) -> Iterator[tuple[str, Any]]:
        loaded, due = 0, 0.0
        for name, tensor in get_all_weights(self, *args, **kwargs):
            loaded += tensor.numel() * tensor.element_size()
            if (now := time.monotonic()) >= due:
                due = now + _TICK_S
                emit.progress("weights", min(1.0, loaded / max(1, total)), f"{loaded >> 20} of {total >> 20} MiB{file}")
            yield name, tensor
        emit.progress("weights", 1.0, f"{loaded >> 20} MiB{file}")

    load_weights = DefaultModelLoader.load_weights

    def measured(self: Any, model: Any, *args: Any, **kwargs: Any) -> None:
        """What the parameters take on this device; shared memory counts once. A CPU repacks them next."""
        load_weights(self, model, *args, **kwargs)
        stores = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in model.parameters()}
        emit.weights(sum(stores.values()))

    DefaultModelLoader.get_all_weights = hooked
    DefaultModelLoader.load_weights = measured


def scope_of(error: BaseException) -> str:
    """Whether another device might do better: too little memory is the device's matter, all else the model's."""
    name, text = type(error).__name__, str(error)
    memory = name == "OutOfMemoryError" or "Available memory on node" in text or "Free memory on device" in text
    return "device" if memory else "model"

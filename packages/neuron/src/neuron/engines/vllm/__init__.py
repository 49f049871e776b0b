"""vLLM as a library inside the engine's own processes. Imported by the zygote; the daemon only names it.

The functions here are what `neuron.zygote.server.Program` asks for. They import the rest when they are called, because
the environment and the compatibility masks have to be in place before vLLM is imported.
"""

from __future__ import annotations

import os
from pathlib import Path

from neuron.zygote.wire import Setup

ENGINE = "vllm"


def prepare(setup: Setup) -> None:
    """Pin the devices and settle what vLLM reads from its environment."""
    numbers = [device.removeprefix("cuda:") for device in setup.devices if not device.startswith("cpu:")]
    cache = Path(setup.cache_dir)
    cache.mkdir(parents=True, exist_ok=True)
    os.environ.update(
        CUDA_DEVICE_ORDER="PCI_BUS_ID",  # so that numbers mean what NVML says
        CUDA_VISIBLE_DEVICES=",".join(numbers),
        OPENBLAS_NUM_THREADS="1",
        VLLM_CPU_OMP_THREADS_BIND="nobind",  # several engines share the cores: the scheduler places their threads
        VLLM_CACHE_ROOT=str(cache),
        XDG_CACHE_HOME=str(cache),
        TORCHINDUCTOR_CACHE_DIR=str(cache / "inductor"),
        TRITON_CACHE_DIR=str(cache / "triton"),
        VLLM_MAX_STOP_STRINGS="64",  # as many as the gateway lets through (protocol A-45)
        VLLM_NO_USAGE_STATS="1",
        DO_NOT_TRACK="1",
        HF_HUB_OFFLINE="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        TOKENIZERS_PARALLELISM="false",  # its thread pool does not survive a fork
    )
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.setdefault(name, "lo")  # torch.distributed listens, without a word of who may connect
    os.environ.setdefault("VLLM_HOST_IP", "127.0.0.1")
    os.environ.setdefault("OMP_NUM_THREADS", str(setup.threads))
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "INFO")


def steps() -> list[str]:
    from neuron.engines.vllm import imports

    return imports.steps()


def preload(step: str) -> str:
    from neuron.engines.vllm import imports

    return imports.load(step)


def identify() -> tuple[str, str]:
    from neuron.engines.vllm import adapter

    return adapter.VERSION, adapter.platform()


def families() -> tuple[str, ...]:
    from neuron.engines.vllm import inspection

    return inspection.families()


def dirt() -> str:
    import torch

    return "importing the engine initialised CUDA" if torch.cuda.is_initialized() else ""


def main(request: str, events: int) -> None:
    from neuron.engines.vllm import compat

    compat.mask()  # before anything of vLLM, where this process was not forked

    from neuron.engines.vllm import host

    host.main(request, events)

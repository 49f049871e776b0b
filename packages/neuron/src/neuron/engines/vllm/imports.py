"""What a zygote imports, so that no load has to.

Kept out, because they touch the device when imported: vllm.v1.attention.backends.mla.cutlass_mla, and models with gated
delta nets (they start the Triton driver).
"""

from __future__ import annotations

import importlib
import warnings

from neuron.engines.vllm import adapter, arguments, compat

_NEEDED = (
    "vllm.engine.arg_utils",
    "vllm.v1.engine.async_llm",
    "vllm.v1.engine.core",
    "vllm.v1.executor.uniproc_executor",
    "vllm.v1.executor.multiproc_executor",
    "vllm.model_executor.model_loader",
    "uvicorn",
    "uvloop",
)
_CPU = (
    "vllm.v1.worker.cpu_worker",
    "vllm.v1.worker.cpu_model_runner",
    "vllm.v1.attention.backends.cpu_attn",
)
_CUDA = (
    "vllm.v1.worker.gpu_worker",
    "vllm.v1.worker.gpu_model_runner",
    "vllm.v1.attention.backends.flash_attn",
)
_USUAL = (  # imported by most loads or first requests; their absence costs time only
    "vllm.v1.core.sched.scheduler",
    "vllm.v1.structured_output",
    "vllm.plugins",
    "vllm.lora.request",
    "vllm.lora.resolver",
    "vllm.model_executor.models.llama",
    "vllm.model_executor.models.qwen3",
    "vllm.model_executor.layers.quantization.compressed_tensors.compressed_tensors",
    "vllm.model_executor.layers.quantization.online.base",
    "vllm.distributed.elastic_ep.elastic_execute",
    "vllm.entrypoints.generate.api_router",
    "vllm.entrypoints.generate.generative_scoring.api_router",
    "vllm.entrypoints.generate.structured_decisions.api_router",
    "vllm.entrypoints.openai.chat_completion.api_router",
    "vllm.entrypoints.openai.chat_completion.batch_serving",
    "vllm.entrypoints.openai.completion.api_router",
    "vllm.entrypoints.openai.models.api_router",
    "vllm.entrypoints.openai.responses.api_router",
    "vllm.entrypoints.anthropic.api_router",
    "vllm.entrypoints.cohere.api_router",
    "vllm.entrypoints.serve.sagemaker.api_router",
    "prometheus_fastapi_instrumentator",
    "model_hosting_container_standards.sagemaker",
    "vllm.entrypoints.openai.chat_completion.serving",
    "vllm.entrypoints.openai.responses.serving",
    "vllm.entrypoints.anthropic.serving",
    "vllm.entrypoints.pooling.factories",
    "vllm.entrypoints.scale_out.factories",
    "vllm.entrypoints.serve",
    "vllm.tool_parsers.hermes_tool_parser",
    "vllm.reasoning.qwen3_engine_reasoning_parser",
    "uvicorn.protocols.http.auto",
    "uvicorn.protocols.websockets.auto",
    "uvicorn.lifespan.off",
    "xgrammar",
)
_LAST = "neuron.engines.vllm.host"


def steps() -> list[str]:
    compat.mask()
    worker = _CPU if adapter.platform() == "cpu" else _CUDA
    return [*_NEEDED, *worker, *adapter.locations(adapter.VERSION), *_USUAL, _LAST]


def load(step: str) -> str:
    """As `neuron.zygote.server.Program.preload`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # vLLM's own, of its imports
        try:
            importlib.import_module(step)
        except ModuleNotFoundError as missing:
            if step not in _USUAL:
                raise
            elsewhere = missing.name is not None and step.startswith(missing.name)  # in this version of vLLM
            return "" if elsewhere else f"{step}: {missing}"
        except (ImportError, AttributeError, OSError, RuntimeError) as error:
            if step not in _USUAL:
                raise
            return f"{step}: {type(error).__name__}: {error}"[:300]
        if step == _LAST:
            arguments.parser()
            _configure_logging()
            _override_kernels()
    return ""


def _configure_logging() -> None:
    """Looks through every logger of every module (0.3 s), once in a process and whatever is forked from it."""
    from vllm import logger

    if configure := getattr(logger, "configure_logging_if_needed", None):  # earlier versions do it on import
        from vllm.config.logging import LoggingConfig

        configure(LoggingConfig())


def _override_kernels() -> None:
    """On a CPU every worker looks through all modules for Triton kernels to replace (0.25 s): do it once, here."""
    from vllm.platforms import current_platform

    if register := getattr(current_platform, "register_triton_kernel_overrides", None):
        register()
        type(current_platform).register_triton_kernel_overrides = classmethod(lambda _: None)

"""What a zygote imports, so that no load has to.

Kept out, because they touch the device when imported: vllm.v1.attention.backends.mla.cutlass_mla, and models with gated
delta nets (they start the Triton driver).
"""

from __future__ import annotations

import importlib
import warnings

from neuron.engines.vllm import adapter, compat

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
    "vllm.entrypoints.openai.chat_completion.serving",
    "vllm.entrypoints.openai.responses.serving",
    "vllm.entrypoints.anthropic.serving",
    "vllm.entrypoints.pooling.factories",
    "vllm.entrypoints.scale_out.factories",
    "vllm.entrypoints.serve",
    "vllm.tool_parsers.hermes_tool_parser",
    "vllm.reasoning.qwen3_engine_reasoning_parser",
    "uvicorn.protocols.http.httptools_impl",
    "uvicorn.lifespan.off",
    "xgrammar",
    "neuron.engines.vllm.host",
)


def steps() -> list[str]:
    compat.mask()
    worker = _CPU if adapter.platform() == "cpu" else _CUDA
    return [*_NEEDED, *worker, *adapter.serving_modules(), *_USUAL]


def load(step: str) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # vLLM's own, of its imports
        try:
            importlib.import_module(step)
        except (ImportError, AttributeError, OSError, RuntimeError) as error:
            if step not in _USUAL:
                raise
            return f"{step}: {type(error).__name__}: {error}"[:300]
    return ""

"""From a load's decisions and a profile's options to vLLM's own arguments.

Everything goes through vLLM's argument parser: it knows types, choices and defaults, and the serving layer reads the
very Namespace that the engine's configuration is made from.
"""

from __future__ import annotations

import difflib
import json
from argparse import Namespace
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from cortex_core.fleet import Startup
from neuron.engines.base import LoadSpec
from neuron.engines.vllm import adapter

_OURS = {  # options that the placement or the daemon decides
    "model", "model_tag", "served_model_name", "kv_cache_memory_bytes", "max_model_len", "host", "port", "uds",
    "headless", "api_server_count", "config", "grpc", "grpc_port", "api_key", "root_path",
    "ssl_keyfile", "ssl_certfile", "ssl_ca_certs",
    "data_parallel_size", "device_ids", "shutdown_timeout", "nnodes", "node_rank", "master_addr", "master_port",
}  # fmt: skip

_TOOL_PARSERS = (  # what a chat template says -> the parser for it; the first that is found
    ("<|channel|>analysis", "openai"),
    ("<function=", "qwen3_coder"),
    ("<tool_call>", "hermes"),
    ("[TOOL_CALLS]", "mistral"),
    ("<|python_tag|>", "llama3_json"),
)


_REASONING_PARSERS = (  # likewise, for what a model thinks before it answers: all of these must be said
    (("<think>", "enable_thinking"), "qwen3"),
    (("<think>",), "deepseek_r1"),
    (("<|channel|>analysis",), "openai_gptoss"),
)

_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM has kernels for

STARTUP: Mapping[Startup, Mapping[str, Any]] = {
    "fast": {"enforce_eager": True, "enable_flashinfer_autotune": False},  # nothing compiled, captured or tuned
    "balanced": {"cudagraph_capture_sizes": [1, 2, 4, 8, 16, 32]},  # compiled, which is cached; few graphs
    "max": {},  # as vLLM does it: a graph for every size
}
_OF_STARTUP = frozenset({  # a profile that says one of these has decided for itself
    "compilation_config", "cudagraph_capture_sizes", "enforce_eager", "max_cudagraph_capture_size",
    "optimization_level",
})  # fmt: skip


class BadOption(ValueError):
    """An option that vLLM does not have, or not so. The message is for the profile's author."""


class _Parser:
    """vLLM's parser, and what it knows."""

    def __init__(self) -> None:
        from vllm.utils.argparse_utils import FlexibleArgumentParser

        self._parser = adapter.serving().make_arg_parser(FlexibleArgumentParser())
        self._parser.error = self._refuse
        self.options = {
            action.dest: max(action.option_strings, key=len)
            for action in self._parser._actions
            if action.option_strings and action.dest != "help"
        }

    @staticmethod
    def _refuse(message: str) -> None:
        raise BadOption(message)

    def parse(self, arguments: list[str]) -> Namespace:
        namespace: Namespace = self._parser.parse_args(arguments)
        return namespace

    def flags(self, dest: str) -> list[str]:
        return next(action.option_strings for action in self._parser._actions if action.dest == dest)


parser = cache(_Parser)  # made once: it takes 0.1 s, which the zygote spends


def build(spec: LoadSpec, total_memory_mb: int) -> Namespace:
    """The Namespace of one load.

    Args:
        spec: the load; `spec.options` are vLLM's engine options, underscores or dashes.
        total_memory_mb: of one device, 0 on a CPU: vLLM wants its share of it as a fraction.

    Raises:
        BadOption: an option that vLLM lacks (with the nearest it has), that is not the profile's, or of the wrong type.
    """
    known = parser()
    options = {name.replace("-", "_"): value for name, value in spec.options.items()}
    for name in options:
        _check(name, known.options)
    usual = {name: value for name, value in defaults(spec, options, total_memory_mb).items() if name in known.options}
    chosen = usual | options | _decided(spec)
    arguments = [part for name, value in chosen.items() for part in _argument(known.flags(name), name, value)]
    namespace = known.parse(arguments)
    try:
        adapter.serving().validate_args(namespace)
    except (TypeError, ValueError) as error:
        raise BadOption(str(error)) from error
    return namespace


def _check(name: str, known: Mapping[str, str]) -> None:
    if name in _OURS:
        raise BadOption(f"option {name} is decided by the neuron, not by a profile")
    if name not in known:
        near = difflib.get_close_matches(name, set(known) - _OURS, n=1)
        raise BadOption(f"unknown option {name}" + (f", did you mean {near[0]}?" if near else ""))


def _decided(spec: LoadSpec) -> dict[str, Any]:
    decided: dict[str, Any] = {
        "model": str(spec.checkpoint),
        "served_model_name": [spec.model],
        "kv_cache_memory_bytes": spec.kv_cache_mb << 20,
    }
    if spec.context:
        decided["max_model_len"] = spec.context
    return decided | _adapters(spec)


def _adapters(spec: LoadSpec) -> dict[str, Any]:
    """LoRA adapters that are loaded with the model and served under names of their own."""
    if not spec.adapters:
        return {}
    rank = max(_rank(name, folder) for name, folder in spec.adapters.items())
    modules = [{"name": n, "path": str(f), "base_model_name": spec.model} for n, f in spec.adapters.items()]
    return {
        "enable_lora": True,
        "lora_modules": [json.dumps(module) for module in modules],
        "max_loras": len(modules),
        "max_lora_rank": next((allowed for allowed in _RANKS if allowed >= rank), rank),
    }


def _rank(name: str, folder: Path) -> int:
    try:
        rank = json.loads((folder / "adapter_config.json").read_bytes())["r"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadOption(f"adapter {name}: no LoRA adapter at {folder}: {type(error).__name__}: {error}") from error
    if not (folder / "adapter_model.safetensors").is_file():
        raise BadOption(f"adapter {name}: {folder} has no adapter_model.safetensors, and nothing else is loaded")
    if not isinstance(rank, int):
        raise BadOption(f"adapter {name}: its rank is no number: {rank!r}")
    return rank


def defaults(spec: LoadSpec, options: Mapping[str, Any], total_memory_mb: int) -> dict[str, Any]:
    """What is chosen where the profile's options say nothing. Arguments as of `build`."""
    chosen: dict[str, Any] = {
        "load_format": "safetensors",  # never a pickle
        "enable_prompt_tokens_details": True,
        "scheduling_policy": "priority",  # first come, first served among equals
        "allowed_media_domains": ["invalid"],  # RFC 2606: matches no host, so nothing is fetched for a request
    }
    parallel = int(options.get("tensor_parallel_size", len(spec.devices))) * int(
        options.get("pipeline_parallel_size", 1)
    )
    if "tensor_parallel_size" not in options and len(spec.devices) > 1:
        chosen["tensor_parallel_size"] = len(spec.devices)
    chosen["distributed_executor_backend"] = "mp" if parallel > 1 else adapter.UNIPROC
    if not total_memory_mb:
        chosen["enforce_eager"] = True
    else:
        if not _OF_STARTUP & set(options):
            chosen |= STARTUP[spec.startup]
        chosen["gpu_memory_utilization"] = round(min(0.98, max(0.01, spec.memory_mb / total_memory_mb)), 4)
    template = chat_template(spec.checkpoint, options.get("chat_template")) if spec.checkpoint is not None else ""
    if "reasoning_parser" not in options:
        for marks, reasoning_parser in _REASONING_PARSERS:
            if all(mark in template for mark in marks):
                chosen["reasoning_parser"] = reasoning_parser
                break
    if "tool_call_parser" not in options:
        for mark, tool_parser in _TOOL_PARSERS:
            if mark in template:
                chosen |= {"enable_auto_tool_choice": True, "tool_call_parser": tool_parser}
                break
    elif options["tool_call_parser"]:
        chosen["enable_auto_tool_choice"] = True
    return chosen


def chat_template(checkpoint: Path, named: object = None) -> str:
    """A checkpoint's chat template, or the one a profile names (a path, or the template itself); else nothing."""
    if isinstance(named, str):
        return Path(named).read_text() if "{" not in named and Path(named).is_file() else named
    file = checkpoint / "chat_template.jinja"
    if file.is_file():
        return file.read_text()
    tokenizer = checkpoint / "tokenizer_config.json"
    if not tokenizer.is_file():
        return ""
    template = json.loads(tokenizer.read_text()).get("chat_template") or ""
    return template if isinstance(template, str) else json.dumps(template)  # a list: several named ones


def _argument(flags: list[str], name: str, value: Any) -> list[str]:
    flag = next(flag for flag in flags if flag.startswith("--") and not flag.startswith("--no-"))
    if value is True:
        return [flag]
    if value is False:
        negative = next((flag for flag in flags if flag.startswith("--no-")), None)
        return [negative] if negative else []
    if value is None:
        return []
    if isinstance(value, dict):
        return [flag, json.dumps(value)]
    if isinstance(value, list):
        if not all(isinstance(item, str | int | float) for item in value):
            return [flag, json.dumps(value)]
        return [flag, *map(str, value)]
    if isinstance(value, str | int | float):
        return [flag, str(value)]
    raise BadOption(f"option {name}: a {type(value).__name__} is no value for it")

"""What we assume of vLLM, held against the version that is installed, without importing it; and what we tell it."""

from __future__ import annotations

import ast
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from neuron.engines.base import SLEEP_OPTION, LoadSpec
from tests.support.bench import Bench

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]

ASSUMED = [
    ("vllm.engine.arg_utils", "AsyncEngineArgs"),
    ("vllm.utils.argparse_utils", "FlexibleArgumentParser"),
    ("vllm.v1.engine.async_llm", "AsyncLLM.from_vllm_config"),
    ("vllm.v1.engine.async_llm", "AsyncLLM.generate"),
    ("vllm.v1.engine.async_llm", "AsyncLLM.encode"),
    ("vllm.v1.engine.async_llm", "AsyncLLM.shutdown"),
    ("vllm.v1.engine.async_llm", "AsyncLLM.sleep"),
    ("vllm.v1.engine.async_llm", "AsyncLLM.wake_up"),
    ("vllm.v1.engine.async_llm", "AsyncLLM.collective_rpc"),
    ("vllm.v1.worker.gpu_worker", "Worker.reload_weights"),
    ("vllm.platforms.interface", "Platform.is_sleep_mode_available"),
    ("vllm.v1.engine.core", "EngineCoreProc.run_engine_core"),
    ("vllm.v1.engine.output_processor", "OutputProcessor.add_request"),
    ("vllm.v1.engine.detokenizer", "IncrementalDetokenizer.num_output_tokens"),
    ("vllm.v1.engine.utils", "CoreEngineProcManager"),
    ("vllm.v1.executor.multiproc_executor", "WorkerProc.make_worker_process"),
    ("vllm.v1.executor.multiproc_executor", "WorkerProc.worker_main"),
    ("vllm.v1.executor.uniproc_executor", "UniProcExecutor"),
    ("vllm.v1.worker.worker_base", "WorkerWrapperBase.init_worker"),
    ("vllm.logger", "configure_logging_if_needed"),
    ("vllm.model_executor.models.registry", "_run_in_subprocess"),
    ("vllm.model_executor.models.registry", "_ModelRegistry.get_supported_archs"),
    ("vllm.model_executor.model_loader.default_loader", "DefaultModelLoader.get_all_weights"),
    ("vllm.model_executor.model_loader.default_loader", "DefaultModelLoader.load_weights"),
]
CALLED_BY_NAME = [  # and replaced where it is called
    ("vllm.v1.engine.utils", "get_mp_context"),
    ("vllm.v1.executor.multiproc_executor", "get_mp_context"),
    ("vllm.transformers_utils.config", "with_retry"),
    ("vllm.model_executor.model_loader.weight_utils", "tqdm"),
    ("vllm.v1.worker.gpu_model_runner", "tqdm"),
]


@cache
def source(module: str) -> ast.Module:
    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parents[1].joinpath(*module.split("."))
    return ast.parse(path.with_suffix(".py").read_text())


def defined(tree: ast.AST, name: str) -> bool:
    head, _, rest = name.partition(".")
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name == head:
            return defined(node, rest) if rest else True
    return False


@pytest.mark.parametrize(("module", "name"), ASSUMED, ids=[name for _, name in ASSUMED])
def test_what_is_hooked_or_called_is_there(module: str, name: str) -> None:
    assert defined(source(module), name)


@pytest.mark.parametrize(("module", "name"), CALLED_BY_NAME)
def test_what_is_replaced_is_called_by_a_name_that_can_be(module: str, name: str) -> None:
    calls = [node.func for node in ast.walk(source(module)) if isinstance(node, ast.Call)]
    assert any(isinstance(function, ast.Name) and function.id == name for function in calls)


def test_a_request_state_counts_what_usage_is_made_of() -> None:
    tree = source("vllm.v1.engine.output_processor")
    set_on_self = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert set_on_self >= {"external_req_id", "prompt_len", "num_cached_tokens", "detokenizer", "request_states"}


def test_the_option_that_lets_an_engine_sleep_is_called_so() -> None:
    tree = source("vllm.config.model")
    assert {
        node.target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    } >= {SLEEP_OPTION}


def test_the_serving_layer_lies_where_this_versions_does() -> None:
    from neuron.engines.vllm import adapter

    functions = ("make_arg_parser", "build_app", "init_app_state")
    for module, function in zip(adapter.locations(adapter.VERSION), functions, strict=True):
        assert defined(source(module), function)


@pytest.mark.parametrize(
    ("version", "parser", "app"),
    [
        ("0.26.0", "vllm.entrypoints.openai.cli_args", "vllm.entrypoints.openai.api_server"),
        ("0.30.1", "vllm.entrypoints.launchers.cli_args", "vllm.entrypoints.launchers.app"),
        ("0.32.0+cpu", "vllm.entrypoints.launchers.cli_args", "vllm.entrypoints.launchers.app"),
        ("0.33.0", "vllm.entrypoints.common.cli_args", "vllm.entrypoints.launchers.app"),
    ],
)
def test_the_serving_layer_moved_between_versions(version: str, parser: str, app: str) -> None:
    from neuron.engines.vllm import adapter

    assert adapter.locations(version)[:2] == (parser, app)


def chosen(folder: Path, total_memory_mb: int = 0, **changes: Any) -> dict[str, Any]:
    from neuron.engines.vllm import arguments

    spec: LoadSpec = Bench(folder).spec(**{"checkpoint": folder, **changes})
    return arguments.defaults(spec, spec.options, total_memory_mb)


def test_pickles_are_refused_and_nothing_is_fetched_for_a_request(tmp_path: Path) -> None:
    assert chosen(tmp_path)["load_format"] == "safetensors"
    assert chosen(tmp_path)["allowed_media_domains"] == ["invalid"]


def test_one_device_computes_in_the_engine_core_and_several_in_workers(tmp_path: Path) -> None:
    assert chosen(tmp_path)["distributed_executor_backend"].endswith("UniProcExecutor")
    both = chosen(tmp_path, devices=("cuda:0", "cuda:1"))
    assert (both["distributed_executor_backend"], both["tensor_parallel_size"]) == ("mp", 2)
    asked = chosen(tmp_path, options={"tensor_parallel_size": 2})
    assert asked["distributed_executor_backend"] == "mp"
    assert "tensor_parallel_size" not in asked


def test_a_gpus_share_is_what_was_placed_and_a_cpu_runs_eagerly(tmp_path: Path) -> None:
    assert chosen(tmp_path)["enforce_eager"]
    on_gpu = chosen(tmp_path, total_memory_mb=1000, memory_mb=250)
    assert on_gpu["gpu_memory_utilization"] == 0.25
    assert "enforce_eager" not in on_gpu


EAGER = {"enforce_eager": True, "enable_flashinfer_autotune": False}
FEW = {"cudagraph_capture_sizes": [1, 2, 4, 8, 16, 32]}


@pytest.mark.parametrize(
    ("startup", "options", "expected"),
    [
        ("fast", {}, EAGER),
        ("balanced", {}, FEW),
        ("max", {}, {}),
        ("fast", {"max_num_seqs": 4}, EAGER),
        ("fast", {"enforce_eager": False}, {}),  # the profile's own word wins
        ("balanced", {"max_cudagraph_capture_size": 256}, {}),
        ("balanced", {"compilation_config": {"cudagraph_mode": "NONE"}}, {}),
        ("balanced", {"optimization_level": 1}, {}),
    ],
)
def test_startup_on_a_gpu(tmp_path: Path, startup: str, options: dict[str, Any], expected: dict[str, Any]) -> None:
    of_startup = {*EAGER, *FEW, "compilation_config", "max_cudagraph_capture_size", "optimization_level"}
    told = chosen(tmp_path, total_memory_mb=1000, memory_mb=250, startup=startup, options=options)
    assert {name: value for name, value in told.items() if name in of_startup} == expected


@pytest.mark.parametrize("startup", ["fast", "balanced", "max"])
def test_startup_on_a_cpu_is_always_the_quick_one(tmp_path: Path, startup: str) -> None:
    told = chosen(tmp_path, startup=startup)
    assert told["enforce_eager"]
    assert "cudagraph_capture_sizes" not in told


def test_every_option_of_startup_is_one_of_the_engine() -> None:
    from neuron.engines.vllm import arguments

    fields = {
        node.target.id
        for node in ast.walk(source("vllm.engine.arg_utils"))
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    assert {name for options in arguments.STARTUP.values() for name in options} <= fields


@pytest.mark.parametrize(
    ("template", "parser"),
    [
        ("{{ '<|channel|>analysis' }}", "openai"),
        ("{{ '<tool_call>' }}", "hermes"),
        ("{{ '<tool_call><function=' }}", "qwen3_coder"),
        ("{{ '[TOOL_CALLS]' }}", "mistral"),
        ("{{ '<|python_tag|>' }}", "llama3_json"),
        ("{{ messages }}", None),
    ],
)
def test_the_tool_parser_is_read_off_the_chat_template(tmp_path: Path, template: str, parser: str | None) -> None:
    (tmp_path / "chat_template.jinja").write_text(template)
    told = chosen(tmp_path)
    assert told.get("tool_call_parser") == parser
    assert told.get("enable_auto_tool_choice", False) == (parser is not None)
    named = chosen(tmp_path, options={"tool_call_parser": "granite"})
    assert "tool_call_parser" not in named
    assert named["enable_auto_tool_choice"]


@pytest.mark.parametrize(
    ("template", "parser"),
    [
        ("{{ '<think>' if enable_thinking }}", "qwen3"),
        ("{{ '<think>' }}", "deepseek_r1"),
        ("{{ '<|channel|>analysis' }}", "openai_gptoss"),
        ("{{ 'think' if enable_thinking }}", None),
        ("{{ messages }}", None),
    ],
)
def test_the_reasoning_parser_is_read_off_the_chat_template(tmp_path: Path, template: str, parser: str | None) -> None:
    from vllm.reasoning import ReasoningParserManager

    (tmp_path / "chat_template.jinja").write_text(template)
    assert chosen(tmp_path).get("reasoning_parser") == parser
    assert "reasoning_parser" not in chosen(tmp_path, options={"reasoning_parser": "granite"})
    if parser is not None:
        assert parser in ReasoningParserManager.list_registered()

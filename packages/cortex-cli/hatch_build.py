"""One version for the four distributions, and exact pins between them.

The version stands in the root pyproject.toml alone. Dependencies that name a sibling stand in this package's
[tool.lockstep] table, with {version} where the pin goes. The same file lies in every package; a test compares them.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class LockstepHook(MetadataHookInterface):
    def update(self, metadata: dict[str, Any]) -> None:
        if "version" in metadata:  # built from an sdist, whose PKG-INFO has everything already
            return
        version = root_version(Path(self.root))
        metadata["version"] = version
        lockstep = tomllib.loads((Path(self.root) / "pyproject.toml").read_text())["tool"].get("lockstep", {})
        if "dependencies" in lockstep:
            metadata["dependencies"] = pinned(lockstep["dependencies"], version)
        if "optional-dependencies" in lockstep:
            extras = lockstep["optional-dependencies"]
            metadata["optional-dependencies"] = {extra: pinned(wants, version) for extra, wants in extras.items()}


def pinned(requirements: list[str], version: str) -> list[str]:
    return [requirement.replace("{version}", version) for requirement in requirements]


def root_version(package: Path) -> str:
    root = package.parent.parent / "pyproject.toml"
    try:
        version: str = tomllib.loads(root.read_text())["project"]["version"]
    except (OSError, KeyError) as error:
        raise RuntimeError(
            f"{package.name} takes its version from {root}, which cannot be read ({error!r}): "
            "build it inside a full checkout of the repository, or from its sdist"
        ) from error
    return version

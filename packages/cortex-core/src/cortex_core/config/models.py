"""models.toml: what the fleet may serve."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from cortex_core.config.loader import ConfigError, convert, read_toml
from cortex_core.fleet import Profile

IGNORED = ("harness", "quant")
"""Keys of the original's entries that are read from the checkpoint here."""


class Catalogue(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    models: tuple[Profile, ...] = ()

    @property
    def profiles(self) -> Mapping[str, Profile]:
        return {profile.id: profile for profile in self.models}


def load_models(path: Path) -> tuple[Catalogue, tuple[str, ...]]:
    """The catalogue, and warnings about keys of the original that mean nothing here.

    Raises:
        ConfigError: with file, table, key and hint.
    """
    values, warnings = _without_ignored(read_toml(path), str(path))
    catalogue = convert(values, Catalogue, str(path))
    ids = [profile.id for profile in catalogue.models]
    for number, model in enumerate(ids):
        if model in ids[:number]:
            raise ConfigError(str(path), f"[[models]] #{number + 1} id", f"`{model}` is taken by an earlier model")
    return catalogue, warnings


def _without_ignored(values: dict[str, Any], source: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    models = values.get("models")
    if not isinstance(models, list):
        return values, ()
    found = sorted({key for entry in models if isinstance(entry, dict) for key in IGNORED if key in entry})
    kept = [{k: v for k, v in e.items() if k not in IGNORED} if isinstance(e, dict) else e for e in models]
    warnings = tuple(f"{source}: [[models]] {key}: ignored, it is read from the checkpoint" for key in found)
    return {**values, "models": kept}, warnings

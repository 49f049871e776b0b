"""models.toml: what the fleet may serve, and under which names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from cortex_core.config.explained import nearest
from cortex_core.config.loader import TAKEN, ConfigError, convert, read_toml
from cortex_core.fleet import Profile

IGNORED = ("harness", "quant")
"""Keys of the original's entries that are read from the checkpoint here."""
_NO_DEFAULTS = frozenset({"model", "messages", "prompt", "input", "stream", "stream_options", "tools"})


class Catalogue(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    models: tuple[Profile, ...] = ()
    aliases: Annotated[
        Mapping[str, str],
        Meta(description="other names for a model: a name, or a pattern with * and ?, of which the longest counts"),
    ] = {}
    default: Annotated[
        str,
        Meta(description="the model for claude-* names that nothing else knows: what Claude Code's sub-agents ask for"),
    ] = ""

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
    _check(catalogue, str(path))
    return catalogue, warnings


def _check(catalogue: Catalogue, source: str) -> None:
    ids = [profile.id for profile in catalogue.models]
    for number, profile in enumerate(catalogue.models):
        where = f"[[models]] #{number + 1}"
        if profile.id in ids[:number]:
            raise ConfigError(source, f"{where} id", f"`{profile.id}` is taken by an earlier model", TAKEN)
        for key in sorted(profile.defaults.keys() & _NO_DEFAULTS):
            raise ConfigError(source, f"{where} defaults", f"`{key}` can have no default", "a client says it itself")
    if not ids:
        return  # the models are what the neurons have
    for alias, model in catalogue.aliases.items():
        if model not in ids:
            raise ConfigError(source, f"[aliases] {alias}", f"there is no model `{model}`", nearest(model, ids))
    if catalogue.default and catalogue.default not in ids:
        problem = f"there is no model `{catalogue.default}`"
        raise ConfigError(source, "default", problem, nearest(catalogue.default, ids))


def _without_ignored(values: dict[str, Any], source: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    models = values.get("models")
    if not isinstance(models, list):
        return values, ()
    found = sorted({key for entry in models if isinstance(entry, dict) for key in IGNORED if key in entry})
    kept = [{k: v for k, v in e.items() if k not in IGNORED} if isinstance(e, dict) else e for e in models]
    warnings = tuple(f"{source}: [[models]] {key}: ignored, it is read from the checkpoint" for key in found)
    return {**values, "models": kept}, warnings

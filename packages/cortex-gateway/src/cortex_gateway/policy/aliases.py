"""Names that clients use for a model besides its own: exact ones, patterns, and one for all that Claude Code asks for.

Coding agents ask for models by name that nobody configured (protocol 0.12): sub-agents on `claude-haiku-…`, and a
mark for a long context behind whatever name it is.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Mapping

from msgspec import Struct

from cortex_core.fleet import Profile

LONG_CONTEXT = "[1m]"  # Claude Code's mark
DISCOVERABLE = "anthropic/"  # Claude Code lists only models whose names begin so, or with claude
_WILD = frozenset("*?")


class Names(Struct, frozen=True, kw_only=True):
    """The aliases of models.toml as they stand there; `default` is for claude-* names that nothing else knows."""

    aliases: Mapping[str, str] = {}
    default: str = ""

    def model(self, asked: str, models: Collection[str]) -> str | None:
        """The model that a name means; None: nobody's."""
        name = asked.removesuffix(LONG_CONTEXT)
        for known in (asked, name, name.removeprefix(DISCOVERABLE)):
            for model in (known, self.aliases.get(known)):
                if model is not None and model in models:
                    return model
        patterns = sorted((p for p in self.aliases if is_pattern(p)), key=lambda pattern: (-len(pattern), pattern))
        for pattern in patterns:
            if fnmatch.fnmatchcase(name, pattern) and self.aliases[pattern] in models:
                return self.aliases[pattern]
        return self.default if name.startswith("claude-") and self.default in models else None

    def listed(self, models: Collection[str]) -> dict[str, str]:
        """Alias → model, of those that are names and no patterns."""
        return {
            alias: model
            for alias, model in self.aliases.items()
            if model in models and alias not in models and not is_pattern(alias)
        }


def adapters(profiles: Mapping[str, Profile]) -> dict[str, str]:
    """Adapter → the model whose replicas serve it. A model's own name comes before an adapter's."""
    return {name: profile.id for profile in profiles.values() for name in profile.adapters if name not in profiles}


def resolve(names: Names, asked: str, profiles: Mapping[str, Profile]) -> tuple[str, str] | None:
    """The model that a name means, and what its engine calls it; None: nobody's."""
    tuned = adapters(profiles)
    found = names.model(asked, profiles.keys() | tuned.keys())
    return None if found is None else (tuned.get(found, found), found)


def is_pattern(alias: str) -> bool:
    return not _WILD.isdisjoint(alias)

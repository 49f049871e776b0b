"""The engines' environments in their folder: which is in use, which was before, and how that is changed."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

STAMP = "neuron-setup.json"  # written last: a folder without it was never finished
CURRENT, PREVIOUS = "current", "previous"


class Stamp(msgspec.Struct, frozen=True):
    """What an environment was made from."""

    engine: str
    version: str
    lock: str  # digest
    python: str


class Environments:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def all(self) -> dict[Path, Stamp]:
        """Every finished environment, by name."""
        found = {}
        for path in sorted(self.folder.iterdir()) if self.folder.is_dir() else ():
            if not path.is_symlink() and (path / STAMP).is_file():
                found[path] = msgspec.json.decode((path / STAMP).read_bytes(), type=Stamp)
        return found

    @property
    def current(self) -> Path | None:
        return self._target(CURRENT)

    @property
    def previous(self) -> Path | None:
        return self._target(PREVIOUS)

    def switch(self, environment: Path) -> None:
        """Put it in use from the neuron's next start on. At every moment the link leads to a whole environment."""
        if self.current == environment:
            return
        if self.current is not None:
            self._link(PREVIOUS, self.current)
        self._link(CURRENT, environment)

    def roll_back(self) -> Path | None:
        """Put the previous one in use again; None: there is none."""
        before = self.previous
        if before is not None:
            self.switch(before)
        return before

    def tidy(self) -> list[Path]:
        """Remove what is neither in use nor the one before, and what was never finished."""
        kept = {self.current, self.previous}
        left_over = [
            path
            for path in (self.folder.iterdir() if self.folder.is_dir() else ())
            if path.is_dir() and not path.is_symlink() and path not in kept
        ]
        for path in left_over:
            shutil.rmtree(path)
        return left_over

    def _target(self, name: str) -> Path | None:
        link = self.folder / name
        target = self.folder / link.readlink() if link.is_symlink() else None
        return target if target is not None and (target / STAMP).is_file() else None

    def _link(self, name: str, environment: Path) -> None:
        new = self.folder / f"{name}.new"
        new.unlink(missing_ok=True)
        new.symlink_to(environment.name)
        new.replace(self.folder / name)

"""What a neuron learns and is told, kept over restarts: loads and their cost, failures, uses, pins, cordon.

Ages on disk are wall-clock times, since a monotonic clock starts anew with the host.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct, structs

from cortex_core.fleet import Failure, Known, Profile

log = logging.getLogger(__name__)

BACK_OFF_S = (5.0, 300.0)  # after a first failure, and at most
FORGET_S = 86_400.0  # a failure so old counts no more
HALF_LIFE_S = 3600.0  # of a use
ENTRIES_MOST = 2000  # models remembered


T = TypeVar("T")


class Failed(Struct, frozen=True, kw_only=True):
    failure: Failure
    at: float  # wall clock
    retry_at: float


class Used(Struct, frozen=True, kw_only=True):
    uses: float
    at: float


class File(Struct, kw_only=True):
    """state.json."""

    known: dict[str, Known] = {}  # "model digest kind" → what was learned
    failures: dict[str, Failed] = {}  # "model digest"
    used: dict[str, Used] = {}  # "model digest"
    pins: dict[str, bool] = {}  # model → what an operator said, or a catalogue at first sight
    profiles: dict[str, Profile] = {}  # of pinned models, to load them again after a restart
    cordoned: bool = False
    cordon_reason: str = ""


class Learned:
    """Reads `state.json` at its making and marks itself `dirty` when it has something to write.

    Args:
        folder: the neuron's state_dir; made if it is not there.
        wall: seconds since the epoch.
    """

    def __init__(self, folder: Path, wall: Callable[[], float] = time.time) -> None:
        self._path = folder / "state.json"
        self._wall = wall
        self._writing = threading.Lock()  # a write that was given up still ends, and the last one comes after it
        self._failing = False
        self.dirty = False
        self.stale = False  # only uses have changed, which may be lost
        self._file = self._read()

    # Loads

    def known(self, model: str, digest: str, kind: str) -> Known | None:
        return self._file.known.get(f"{model} {digest} {kind}")

    def all_known(self) -> tuple[Known, ...]:
        return tuple(
            structs.replace(known, uses=round(self._uses(f"{known.model} {known.digest}"), 4))
            for known in self._file.known.values()
        )

    def loaded(self, known: Known) -> None:
        """A load succeeded: keep what it showed, and forget what failed before it."""
        before = self.known(known.model, known.digest, known.device_kind)
        if before is not None:
            known = structs.replace(
                known,
                wake_s=known.wake_s or before.wake_s,
                weights_mb=known.weights_mb or before.weights_mb,
                overhead_mb=known.overhead_mb or before.overhead_mb,
                facts=known.facts or before.facts,
            )
        self._file.known[f"{known.model} {known.digest} {known.device_kind}"] = known
        self._file.failures.pop(f"{known.model} {known.digest}", None)
        self._trim(self._file.known)
        self.dirty = True

    def measured(self, model: str, digest: str, kind: str, **figures: float) -> None:
        """More was learned of what is loaded: these fields of `Known`."""
        if (known := self.known(model, digest, kind)) is not None:
            self._file.known[f"{model} {digest} {kind}"] = structs.replace(known, **figures)
            self.dirty = True

    def used(self, model: str, digest: str) -> None:
        key = f"{model} {digest}"
        self._file.used[key] = Used(uses=self._uses(key) + 1.0, at=self._wall())
        self._trim(self._file.used)
        self.stale = True

    def _uses(self, key: str) -> float:
        used = self._file.used.get(key)
        return used.uses * 0.5 ** (max(0.0, self._wall() - used.at) / HALF_LIFE_S) if used else 0.0

    # Failures

    def failed(self, failure: Failure) -> Failure:
        """Count a failure; each one in a row doubles the time until the next try."""
        key, now = f"{failure.model} {failure.digest}", self._wall()
        before = self._file.failures.get(key)
        count = before.failure.count + 1 if before and now - before.at < FORGET_S else 1
        delay_s = min(BACK_OFF_S[1], BACK_OFF_S[0] * 2.0 ** min(count - 1, 20))
        failure = structs.replace(failure, count=count, retry_in_s=delay_s)
        self._file.failures[key] = Failed(failure=failure, at=now, retry_at=now + delay_s)
        self._trim(self._file.failures)
        self.dirty = True
        return failure

    def failure(self, model: str, digest: str) -> Failure | None:
        """The last failure, with what is left of its back-off; None when there is none that counts."""
        found = self._file.failures.get(f"{model} {digest}")
        return self._aged(found) if found else None

    def failures(self) -> tuple[Failure, ...]:
        return tuple(self._aged(failed) for failed in self._file.failures.values())

    def _aged(self, failed: Failed) -> Failure:
        return structs.replace(failed.failure, retry_in_s=round(max(0.0, failed.retry_at - self._wall()), 3))

    # Pins and cordon

    def pinned(self, model: str) -> bool:
        return self._file.pins.get(model, False)

    def pins(self) -> dict[str, bool]:
        return dict(self._file.pins)

    def pinned_profiles(self) -> list[Profile]:
        return [profile for model, profile in self._file.profiles.items() if self.pinned(model)]

    def pin(self, profile: Profile, pinned: bool) -> None:
        """An operator's word, which wins over the catalogue's from now on."""
        self._file.pins[profile.id] = pinned
        if pinned:
            self._file.profiles[profile.id] = profile
        else:
            self._file.profiles.pop(profile.id, None)
        self.dirty = True

    def seen(self, profile: Profile, neuron: str) -> None:
        """A catalogue's `pinned_on` counts when the model is seen for the first time."""
        if neuron in profile.pinned_on and profile.id not in self._file.pins:
            self.pin(profile, True)

    def profile(self, model: str) -> Profile | None:
        return self._file.profiles.get(model)

    @property
    def cordoned(self) -> bool:
        return self._file.cordoned

    @property
    def cordon_reason(self) -> str:
        return self._file.cordon_reason

    def cordon(self, cordoned: bool, reason: str) -> None:
        self._file.cordoned, self._file.cordon_reason = cordoned, reason if cordoned else ""
        self.dirty = True

    def problems(self) -> list[str]:
        return [f"{self._path} cannot be written: what is learned lasts until the next start"] if self._failing else []

    # The file

    def taken(self) -> bytes:
        """All of it, to be written; from now on nothing is unwritten. On the loop, where it cannot change meanwhile."""
        self.dirty = self.stale = False
        return msgspec.json.format(msgspec.json.encode(self._file), indent=1)

    def write(self, data: bytes) -> None:
        """Put it in the place of what was there, whole or not at all. Blocks; for a thread.

        A full disk costs what would have been remembered, and nothing else: it is tried again with the next change.
        """
        scratch = self._path.with_suffix(".new")
        with self._writing:
            try:
                with scratch.open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                scratch.replace(self._path)
            except OSError as error:
                if not self._failing:
                    log.warning("%s cannot be written: %s", self._path, error)
                self._failing = True
            else:
                self._failing = False

    def _read(self) -> File:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=File)
        except FileNotFoundError:
            return File()
        except msgspec.DecodeError as error:
            aside = self._path.with_suffix(".broken")
            self._path.replace(aside)
            log.warning("%s cannot be read (%s); it lies aside as %s", self._path, error, aside.name)
            return File()

    @staticmethod
    def _trim(entries: dict[str, T]) -> None:
        while len(entries) > ENTRIES_MOST:
            del entries[next(iter(entries))]

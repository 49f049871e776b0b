"""What the supervisor knows of an engine: how to start one on a device, hear of it, and end it.

An engine answers HTTP/1.1 (`/v1/*`, `/health`) on a unix socket; the daemon relays to it and never imports what
computes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec

from cortex_core.fleet import ModelFacts, Startup

PHASES = ("fork", "config", "engine", "device", "weights", "profile", "kv_cache", "warmup", "serving")
"""Of a load, in order."""
SLEEP_OPTION = "enable_sleep_mode"  # of a profile's engine, as vLLM calls it: it can sleep
_TASK = re.compile(r"(For[A-Z]\w*|(LMHead|Chat|Embedding|Classification|Reward)?Model)$")


def family(architecture: str) -> str:
    """An architecture without what it is used for: an engine that knows one of a family makes the others of it."""
    return _TASK.sub("", architecture)


class LoadSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One load, decided: everything an engine host needs, nothing it must ask for."""

    replica: str  # short and unique for ever: names the socket and the log
    model: str  # the catalogue id, which the engine serves under
    checkpoint: Path | None  # a local folder; None only for the simulated engine
    devices: tuple[str, ...]  # ids of one neuron's devices; several: tensor parallel
    memory_mb: int  # what the replica may take of each device, weights included
    kv_cache_mb: int  # the part of it that is KV cache
    context: int  # tokens; 0: what the checkpoint says
    options: dict[str, Any]  # engine options of the profile, the engine's own names
    startup: Startup = "balanced"
    adapters: dict[str, Path] = {}  # name of a model → the LoRA adapter's folder
    socket: Path  # where the engine host listens
    log: Path  # what the engine prints


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """A step of a load."""

    phase: str  # of PHASES
    done: float = 0.0  # of this phase: 0 to 1, where it can be told
    detail: str = ""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a loaded engine says of itself."""

    context: int = 0  # tokens that one request may hold
    kv_tokens: int = 0  # tokens that all requests together may hold
    weights_bytes: int = 0  # of its parameters, all devices together; 0: not told
    tasks: tuple[str, ...] = ()  # generate, embed, classify, ...
    model: ModelFacts | None = None  # for translating requests; None: nothing is known
    pids: tuple[int, ...] = ()  # its processes, the engine host first
    simulated: bool = False
    can_sleep: bool = False


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How an engine came to its end."""

    clean: bool  # it was asked to
    reason: str = ""  # for people: signal, exit code, exception


class Finished(msgspec.Struct, frozen=True, kw_only=True):
    """One request's exact usage, told by the engine itself, also for one cut short."""

    request_id: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    outcome: str  # stop, length, abort, error


class EngineFailed(Exception):
    """A load that did not come to serve. Nothing of it is left."""

    def __init__(self, phase: str, message: str, scope: str = "model", *, told: bool = True) -> None:
        super().__init__(f"{phase}: {message}")
        self.phase = phase
        self.message = message
        self.scope = scope  # model, device or neuron: where trying again would fail the same way
        self.told = told  # by the engine itself; else it ended without a word


class Engine(Protocol):
    """One running engine. Owned by the supervisor; `load` of an owner made it."""

    @property
    def socket(self) -> Path: ...

    @property
    def facts(self) -> Facts: ...

    async def ended(self) -> Ended:
        """Wait until the engine is gone, whoever ended it. May be awaited by many, again and again."""
        ...

    async def sleep(self, level: int) -> None:
        """Give its device's memory back, and stay: weights in host memory (1) or nowhere (2). Raises EngineFailed."""
        ...

    async def wake(self, level: int) -> None:
        """Take the memory again, from the level at which it sleeps. Raises EngineFailed."""
        ...

    async def close(self, grace_s: float) -> None:
        """End it: politely for at most `grace_s`, then by force. Returns when all its processes are gone."""
        ...

    async def kill(self) -> None:
        """End one that is dead or hangs, by force and without waiting for the device's turn."""
        ...


class EngineOwner(Protocol):
    """All that touches one device (or group of like devices) goes through its owner, one operation at a time."""

    async def load(
        self,
        spec: LoadSpec,
        on_progress: Callable[[Progress], None],
        on_finished: Callable[[Finished], None],
    ) -> Engine:
        """Start an engine and wait until it serves. Cancelling ends what was started.

        Raises:
            EngineFailed: with the phase that failed and the engine's own words; nothing is left behind.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """For `/discovery` and `/health`: engine and version, readiness, what is wrong in words."""
        ...

    async def close(self) -> None:
        """End the owner and every engine of it."""
        ...

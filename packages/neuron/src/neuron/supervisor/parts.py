"""What the daemon's parts have in common: made once, handed to each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from cortex_core.config import NeuronConfig
from neuron.api.requests import Requests
from neuron.hardware.host import Host
from neuron.hardware.owners import Owners
from neuron.sizing.learned import Learned
from neuron.supervisor.events import Hub
from neuron.supervisor.operations import Operations

Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]


@dataclass(frozen=True, slots=True)
class Parts:
    """`spawn` gives a task to the daemon's task group; `clock` is the loop's, monotonic."""

    config: NeuronConfig
    name: str
    instance_id: str  # of this run
    host: Host
    owners: Owners
    learned: Learned
    hub: Hub
    requests: Requests
    operations: Operations
    spawn: Spawn
    clock: Callable[[], float]

"""What the daemon's parts have in common: made once, handed to each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from cortex_core.config import NeuronConfig
from neuron.events import Hub
from neuron.host import Host
from neuron.learned import Learned
from neuron.operations import Operations
from neuron.owners import Owners
from neuron.requests import Requests

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

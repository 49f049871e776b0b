"""The simulated neuron: the contract of the neuron's API, in memory and in virtual time.

`truth` is what it knows and tells, `swaps` how it loads and unloads, `engine` how it answers. Every refusal carries the
present state. A request is judged by its head. What was learned, pins and the cordon outlive a restart; replicas and
operations do not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from msgspec import Struct, structs

from cortex_core.fleet import Device, State
from cortex_core.neuron_api import HEARTBEAT_S, CordonRequest, DemandRequest, PinRequest
from cortex_gateway.sim.connection import Broken
from cortex_gateway.sim.engine import Generation
from cortex_gateway.sim.swaps import Swaps
from cortex_gateway.sim.truth import GUARD_S, Model, Row

CLOSED = {
    State.LOADING: "loading",
    State.RECOVERING: "loading",
    State.WAKING: "waking",
    State.SLEEPING: "sleeping",
    State.DRAINING: "draining",
    State.UNLOADING: "draining",
}
"""States whose gate is closed, with the code of the refusal."""
DUPLICATE_S = 600.0  # for so long a request's id is known after its end


class Head(Struct, frozen=True, kw_only=True):
    """What a request is judged by, before its body is read."""

    request_id: str
    gateway: str
    instance_id: str
    replica: str
    deadline_s: float = 0.0  # by when it must have a slot; 0: never
    prefix: str = ""  # of the body, as the engine will find it
    prompt_tokens: int = 0


class SimNeuron(Swaps):
    """One neuron. Its methods are the calls of the contract; `start` and `crash` are what befalls it.

    Args:
        tasks: who owns its operations.
        on_change: told of each replica that changed, after it did.
        guard_s: how long a fresh replica waits for its first request.
    """

    def __init__(
        self,
        name: str,
        devices: Iterable[Device],
        models: Mapping[str, Model],
        tasks: asyncio.TaskGroup,
        on_change: Callable[[Any, Row], None] = lambda _neuron, _row: None,
        guard_s: float = GUARD_S,
    ) -> None:
        super().__init__(name, devices, models, tasks, on_change, guard_s)
        self._requests: dict[str, Row] = {}  # by request id
        self._ended: dict[str, float] = {}  # request id → when it ended, of those that were executed
        self._starts = 0

    # ---------------------------------------------------------------- life

    def start(self) -> None:
        """Come up with a new identity, and nothing loaded."""
        self._starts += 1
        self.instance_id = f"{self.name}.{self._starts}"
        self.up, self.seq = True, 0
        self._timer = self._loop.call_later(HEARTBEAT_S, self.beat)

    def crash(self) -> None:
        """The process dies: every connection breaks, and nothing of its memory stays."""
        self.up = False
        if self._timer is not None:
            self._timer.cancel()
        for task in self._active.values():
            task.cancel()
        for running in self._operations.values():
            running.end(Broken())
        for row in self.rows.values():
            row.state = State.ABSENT
            self.cut += row.engine.cut()
        for state in (self.rows, self._active, self._operations, self._requests, self._ended, self._demand):
            state.clear()
        self.hang_up()

    def stranger(self, memory_mb: int) -> None:
        """Somebody else's process takes so much of each device, or leaves."""
        self.devices = tuple(structs.replace(device, used_by_others_mb=memory_mb) for device in self.devices)
        self.snapshot()

    # ---------------------------------------------------------------- requests

    def admit(self, head: Head, tokens: int) -> Generation:
        """`POST /v1/…`. Its answer is complete when `ended` is; whoever admitted it calls `leave`, in any case.

        Raises:
            Refused: with the replica as it is now.
        """
        if head.instance_id != self.instance_id:
            raise self.refuse("outrun", "another start of this neuron was meant")
        row = self.rows.get(head.replica)
        if row is None:
            raise self.refuse("not_loaded", f"no replica {head.replica}")
        if row.state in CLOSED:
            raise self.refuse(CLOSED[row.state], f"replica {row.id} is {row.state}", row)
        if self.cordoned:
            raise self.refuse("cordoned", f"{self.name} takes no new requests", row)
        ended_at = self._ended.get(head.request_id, -DUPLICATE_S)
        if head.request_id in self._requests or self.now - ended_at < DUPLICATE_S:
            raise self.refuse("duplicate", "this request runs or has run", executed="yes")
        generation = Generation(head.gateway, head.request_id, tokens, head.prefix, head.prompt_tokens)
        row.engine.admit(generation, head.deadline_s)
        self._requests[generation.id] = row
        self.used(row)
        return generation

    def has_begun(self, generation: Generation) -> bool:
        """Whether its first token was sent."""
        row = self._requests.get(generation.id)
        return generation.begun if row is None else row.engine.has_begun(generation)

    def leave(self, generation: Generation) -> None:
        """Its connection is closed; what still runs of it is aborted."""
        row = self._requests.pop(generation.id, None)
        if row is not None:
            row.engine.leave(generation)
            if generation.first_at:  # it had a slot
                self._ended[generation.id] = self.now

    # ---------------------------------------------------------------- operators and gateways

    def pin(self, request: PinRequest) -> None:
        """`POST /models/pin`."""
        self.pins[request.model] = request.pinned
        for row in tuple(self.rows.values()):
            if row.model == request.model:
                self.changed(row)
        self.snapshot()

    def cordon(self, request: CordonRequest, *, cordoned: bool = True) -> None:  # noqa: ARG002 - the reason is for people
        """`POST /cordon` and `/uncordon`: no new leases and no new loads; who holds a lease goes on."""
        self.cordoned = cordoned
        self.snapshot()

    def demand(self, request: DemandRequest) -> None:
        """`POST /demand`."""
        if self._demands().get(request.gateway, {}).keys() != request.models.keys():
            self.beat_soon()
        self._demand[request.gateway] = (self.now, request.models)
        every = self._demands()
        for row in self.rows.values():
            told = ((name, models.get(row.model)) for name, models in every.items())
            row.engine.posted = {name: demand.waiters for name, demand in told if demand is not None}

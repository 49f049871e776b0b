"""A replica as its neuron holds it: the mutable truth of which `fleet.Replica` is a view."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from cortex_core.fleet import HOLDS_MEMORY, MEBIBYTE, ModelFacts, Profile, Replica, Share, State
from cortex_core.http import Client
from neuron.engines.base import Engine, LoadSpec
from neuron.sizing.checkpoints import Facts as Checkpoint
from neuron.supervisor.gate import Gate
from neuron.supervisor.lifecycle import Event, Life
from neuron.supervisor.refusals import Refused

TURN_LOADS = 4.0  # a turn lasts so many times the load
TURN_LEAST_S = 10.0


class Resident:
    """Owned by the supervisor; nobody else changes it.

    `claimed_by` is the replica whose load lets this one go: from then on its memory is promised. A replica that waits
    for such victims shows only what they do not hold any more, so that the sum of what is shown never exceeds a device.
    """

    def __init__(self, replica_id: str, profile: Profile, checkpoint: Checkpoint, clock: Callable[[], float]) -> None:
        self.id = replica_id
        self.version = 1
        self.profile = profile
        self.checkpoint = checkpoint
        self.life = Life(replica_id)
        self.gate = Gate()
        self.spec: LoadSpec | None = None
        self.engine: Engine | None = None
        self.client: Client | None = None  # to the engine
        self.shares: tuple[Share, ...] = ()
        self.asleep = False  # also while it is unloaded from there
        self.asleep_mb = 0  # what it then keeps of each device
        self.asleep_level = 0  # at which it sleeps
        self.victims: list[Resident] = []
        self.claimed_by: Resident | None = None
        self.work: asyncio.Task[None] | None = None  # its load, recovery, going to sleep or waking
        self.starts = 0  # engines started for it
        self.strikes = 0  # engines that died one after another
        self.died_of = ""  # the last time
        self.reason = ""
        self.phase = ""
        self.progress = 0.0
        self.context = 0
        self.kv_tokens = 0
        self.tasks: tuple[str, ...] = ()
        self.facts: ModelFacts | None = None
        self.simulated = False
        self.guard_s = 0.0
        self.load_s = 0.0
        self.expected_load_s = 0.0
        self._clock = clock
        now = clock()
        self.load_began = now
        self.ready_at = now
        self.idle_since = now
        self.progressed_at = now  # when its engine last gave a sign of progress
        self.aborted_at = -math.inf  # when its requests were last aborted, for it hung
        self.served = False  # whether a request of it has ended
        self.committed = False  # a victim of its load is gone: the load cannot be called off any more
        self.refused: Refused | None = None  # how its load ended, if not well
        self.changed = asyncio.Event()  # set at each change, and then replaced

    def note(self) -> None:
        """Wake who watches it."""
        self.changed.set()
        self.changed = asyncio.Event()

    @property
    def model(self) -> str:
        return self.profile.id

    @property
    def digest(self) -> str:
        return self.profile.digest

    @property
    def state(self) -> State:
        return self.life.state

    @property
    def can_sleep(self) -> bool:
        return self.engine is not None and self.engine.facts.can_sleep

    @property
    def weights_mb(self) -> int:
        """Of its parameters, all devices together."""
        told = self.engine.facts.weights_bytes if self.engine is not None else 0
        return -(-(told or self.checkpoint.weights_bytes) // MEBIBYTE)

    @property
    def devices(self) -> tuple[str, ...]:
        return tuple(share.id for share in self.shares)

    def advance(self, event: Event, reason: str = "") -> None:
        """Take a step of its life; a structural change, so its version rises."""
        self.life.advance(event)
        if event in (Event.SLEEP, Event.WAKE):
            self.asleep = event is Event.SLEEP
        self.version += 1
        self.reason = reason

    def held_mb(self, device: str) -> int:
        """What it holds of a device, beyond what its victims hold there."""
        if self.state not in HOLDS_MEMORY:
            return 0
        mine = sum(share.memory_mb for share in self.shares if share.id == device)
        if self.asleep:
            mine = min(mine, self.asleep_mb)
        return max(0, mine - sum(victim.held_mb(device) for victim in self.victims))

    def turn_s(self) -> float:
        return max(TURN_LOADS * self.load_s, TURN_LEAST_S)

    def evictable_in_s(self, demanded: bool) -> float:
        """How long it is protected: until its first request has come and gone (or has not come), then, with demand,
        to the end of its turn. A guard of 0 switches all of it off."""
        if self.state is not State.READY or not self.guard_s:
            return 0.0
        age_s = self._clock() - self.ready_at
        guard_s = 0.0 if self.served else self.guard_s
        if demanded or self.gate.demand:
            guard_s = max(guard_s, self.turn_s())
        return max(0.0, round(guard_s - age_s, 3))

    def expected_s(self) -> float:
        """Until it is ready, as earlier loads took."""
        if self.state not in (State.LOADING, State.WAKING) or not self.expected_load_s:
            return 0.0
        return max(0.0, round(self.expected_load_s - (self._clock() - self.load_began), 3))

    def idle_s(self) -> float:
        return 0.0 if self.gate.in_flight else round(self._clock() - self.idle_since, 3)

    def view(self, *, pinned: bool, demanded: bool) -> Replica:
        devices = self.devices
        return Replica(
            id=self.id,
            version=self.version,
            model=self.model,
            digest=self.digest,
            state=self.state,
            devices=tuple(Share(device, self.held_mb(device)) for device in devices),
            reason=self.reason,
            phase=self.phase,
            progress=round(self.progress, 4),
            expected_s=self.expected_s(),
            in_flight=self.gate.in_flight,
            queue=self.gate.queue,
            max_in_flight=self.gate.max_in_flight if self.engine else 0,
            max_queue_depth=self.gate.max_queue_depth if self.engine else 0,
            context=self.context,
            kv_tokens=self.kv_tokens,
            tasks=self.tasks,
            facts=self.facts,
            adapters=tuple(self.profile.adapters),
            pinned=pinned,
            tier="asleep" if self.asleep else "running" if self.engine else "",
            evictable_in_s=self.evictable_in_s(demanded),
            idle_s=self.idle_s(),
            load_s=round(self.load_s, 3),
            simulated=self.simulated,
        )

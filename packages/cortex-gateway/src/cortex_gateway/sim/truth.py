"""What a simulated neuron knows of itself, and how it tells: replicas with versions, reports with a `seq`."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from msgspec import Struct, structs

from cortex_core.fleet import HOLDS_MEMORY, Demand, Device, Failure, Known, Profile, Replica, Share, State
from cortex_core.neuron_api import HEARTBEAT_LEAST_S, HEARTBEAT_S, DemandEvent, Gauges, ReplicaEvent, Report
from cortex_gateway.dispatch.commands import Refused
from cortex_gateway.policy.turns import turn_s
from cortex_gateway.sim.engine import Engine, Speed, refused

GUARD_S = 5.0  # a fresh replica that has not served cannot be taken for so long: its requests are on their way
DEMAND_S = 3.0  # what a gateway said that it has waiting counts for so long
BACK_OFF_S, BACK_OFF_MOST_S = 5.0, 300.0  # after a failed load, doubled with each further one
USES_S = 600.0  # after so long a use counts a third as much

Message = Report | ReplicaEvent | DemandEvent | Gauges
Reader = Callable[[Message | None], None]  # None: the stream ended


class Model(Struct, frozen=True, kw_only=True):
    """What is true of a model on these neurons, whatever its profile says."""

    need_mb: int  # in all, over its devices
    load_s: float = 10.0
    unload_s: float = 1.0
    context: int = 8192  # tokens
    kv_tokens: int = 32_768
    speed: Speed = Speed()


class LoadFault(Struct, frozen=True, kw_only=True):
    """What happens to a load of a model."""

    slower: float = 1.0  # how many times as long it takes
    fails_at: float = 2.0  # the share of its time after which it fails; above 1: it does not
    scope: Literal["model", "device", "neuron"] = "model"


class Row:
    """A replica as its owner keeps it."""

    __slots__ = ("digest", "engine", "id", "load_s", "model", "place", "ready_at", "shares", "since", "state", "until",
                 "version")  # fmt: skip

    def __init__(self, replica_id: str, model: str, digest: str, engine: Engine, place: tuple[Share, ...]) -> None:
        self.id = replica_id
        self.model = model
        self.digest = digest
        self.engine = engine
        self.place = place  # the memory it was promised
        self.shares: tuple[Share, ...] = ()  # the memory it has: what is free at once, the rest as its victims go
        self.version = 0
        self.state = State.LOADING
        self.since = self.until = 0.0  # when its load began, and when that is expected to end
        self.ready_at: float | None = None
        self.load_s = 0.0

    @property
    def is_idle(self) -> bool:
        return not self.engine.in_flight and not self.engine.queue

    def claim_mb(self, device: str) -> int:
        """What it has of a device or was promised."""
        if self.state not in HOLDS_MEMORY:
            return 0
        return sum(share.memory_mb for share in self.place if share.id == device)


class Truth:
    """The state of one neuron. Whoever changes a row says so with `changed`, which numbers and tells it."""

    def __init__(
        self,
        name: str,
        devices: Iterable[Device],
        models: Mapping[str, Model],
        on_change: Callable[[Any, Row], None],
        guard_s: float,
    ) -> None:
        self.name = name
        self.guard_s = guard_s
        self.devices = tuple(devices)
        self.models = models
        self.rows: dict[str, Row] = {}
        self.pins: dict[str, bool] = {}
        self.cordoned = False
        self.up = False
        self.instance_id = ""
        self.seq = 0
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None  # of the heartbeat
        self._beat_at = 0.0
        self._on_change = on_change
        self._readers: dict[object, Reader] = {}
        self._known: dict[tuple[str, str], Known] = {}
        self._used_at: dict[tuple[str, str], float] = {}
        self._failures: dict[tuple[str, str], tuple[Failure, float]] = {}  # with when it may be tried again
        self._demand: dict[str, tuple[float, Mapping[str, Demand]]] = {}
        self._told_demand: dict[str, Mapping[str, Demand]] = {}
        self._snapshot_due = False

    @property
    def now(self) -> float:
        return self._loop.time()

    def report(self) -> Report:
        """`GET /models`."""
        now = self.now
        failures = (structs.replace(f, retry_in_s=max(0.0, until - now)) for f, until in self._failures.values())
        return Report(
            name=self.name,
            instance_id=self.instance_id,
            seq=self.seq,
            devices=self.devices,
            replicas=tuple(map(self.view, self.rows.values())),
            known=tuple(self._known.values()),
            failures=tuple(failures),
            demand=self._demands(),
            pins=dict(self.pins),
            cordoned=self.cordoned,
            simulated=True,
        )

    def view(self, row: Row) -> Replica:
        now, model = self.now, self.models[row.model]
        loading = row.state is State.LOADING
        return Replica(
            id=row.id,
            version=row.version,
            model=row.model,
            digest=row.digest,
            state=row.state,
            devices=row.shares,
            phase=("loading" if row.until else "making room") if loading else "",
            progress=min(1.0, (now - row.since) / (row.until - row.since)) if loading and row.until else 0.0,
            expected_s=max(0.0, row.until - now) if loading else 0.0,
            in_flight=row.engine.in_flight,
            queue=row.engine.queue,
            max_in_flight=row.engine.speed.max_in_flight,
            max_queue_depth=row.engine.speed.max_queue_depth,
            context=model.context,
            kv_tokens=model.kv_tokens,
            tasks=("generate",),
            pinned=self.pins.get(row.model, False),
            tier="running" if row.state in {State.READY, State.DRAINING} else "",
            evictable_in_s=self.evictable_in_s(row),
            idle_s=self._idle_s(row),
            load_s=row.load_s,
            simulated=True,
        )

    def evictable_in_s(self, row: Row) -> float:
        """A fresh replica is protected until its first request has ended, then for its turn while it has demand.

        Without a guard there is no protection at all.
        """
        if row.ready_at is None or row.state is not State.READY or not self.guard_s:
            return 0.0
        guard_s = 0.0 if row.engine.ended else self.guard_s
        if not row.is_idle or any(row.model in models for models in self._demands().values()):
            guard_s = max(guard_s, turn_s(row.load_s))
        return max(0.0, row.ready_at + guard_s - self.now)

    def _idle_s(self, row: Row) -> float:
        if row.ready_at is None or not row.is_idle:
            return 0.0
        return self.now - max(row.engine.used_at, row.ready_at)

    def _demands(self) -> dict[str, Mapping[str, Demand]]:
        """Gateway → model → what waits there, as it was told lately."""
        now = self.now
        return {gateway: models for gateway, (at, models) in self._demand.items() if now - at < DEMAND_S}

    # ---------------------------------------------------------------- telling

    def subscribe(self, reader: Reader) -> Callable[[], None]:
        """`GET /events`: the snapshot, then what happens. Returns what ends the subscription."""
        key = object()
        self._readers[key] = reader
        reader(self.report())

        def unsubscribe() -> None:
            self._readers.pop(key, None)

        return unsubscribe

    def changed(self, row: Row, state: State | None = None) -> None:
        """A structural change of a replica; one that is gone leaves the list."""
        if state is not None:
            row.state = state
        row.version += 1
        if row.state not in HOLDS_MEMORY:
            self.rows.pop(row.id, None)
        self.seq += 1
        self._tell(ReplicaEvent(seq=self.seq, replica=self.view(row)))
        self._on_change(self, row)

    def snapshot(self) -> None:
        """Something changed that has no event of its own."""
        self._snapshot_due = False
        self.seq += 1
        self._tell(self.report())

    def beat(self) -> None:
        """Once a second: what has no event of its own, and the gauges, which repeat the last `seq`."""
        if self._snapshot_due:
            self.snapshot()
        demands = self._demands()
        if demands != self._told_demand:
            self._told_demand = demands
            self.seq += 1
            self._tell(DemandEvent(seq=self.seq, demand=demands))
        rows = self.rows.values()
        gauges = Gauges(
            seq=self.seq,
            in_flight={row.id: row.engine.in_flight for row in rows},
            queue={row.id: row.engine.queue for row in rows},
            idle_s={row.id: self._idle_s(row) for row in rows},
            evictable_in_s={row.id: self.evictable_in_s(row) for row in rows},
        )
        self._tell(gauges)
        self._beat_at = self.now
        self._timer = self._loop.call_later(HEARTBEAT_S, self.beat)

    def beat_soon(self) -> None:
        """The gauges tell something that others wait for: a replica became idle, or demand began or ended."""
        due = max(self.now, self._beat_at + HEARTBEAT_LEAST_S)
        if self._timer is not None and self.up and due < self._timer.when():
            self._timer.cancel()
            self._timer = self._loop.call_at(due, self.beat)

    def _tell(self, message: Message) -> None:
        for reader in tuple(self._readers.values()):
            reader(message)

    def hang_up(self) -> None:
        """Every stream of events ends."""
        readers, self._readers = self._readers, {}
        for reader in readers.values():
            reader(None)

    def refuse(self, code: str, message: str, *rows: Row, **fields: Any) -> Refused:
        """A refusal with the present state of what it is about."""
        fields = {"instance_id": self.instance_id, "replicas": tuple(map(self.view, rows)), **fields}
        return refused(code, message, **fields)

    # ---------------------------------------------------------------- what outlives a restart

    def used(self, row: Row) -> None:
        """A request came: uses fade exponentially."""
        key, now = (row.model, row.digest), self.now
        faded = math.exp((self._used_at.get(key, now) - now) / USES_S)
        self._used_at[key] = now
        if key in self._known:
            self._known[key] = structs.replace(self._known[key], uses=self._known[key].uses * faded + 1.0)

    def learned(self, row: Row) -> None:
        """A load succeeded."""
        key = (row.model, row.digest)
        need_mb = sum(share.memory_mb for share in row.place)
        known = self._known.get(key) or Known(model=row.model, digest=row.digest, device_kind=self.devices[0].kind)
        self._known[key] = structs.replace(
            known, load_s=row.load_s, weights_mb=need_mb, kv_tokens=self.models[row.model].kv_tokens
        )
        self._failures.pop(key, None)
        self._snapshot_due = True

    def failed(self, row: Row, scope: Literal["model", "device", "neuron"]) -> Failure:
        """A load failed: nobody tries it again for a while, the longer the more often it did."""
        before = self._failures.get((row.model, row.digest))
        count = before[0].count + 1 if before else 1
        wait_s = min(BACK_OFF_S * 2.0 ** (count - 1), BACK_OFF_MOST_S)
        failure = Failure(
            model=row.model, digest=row.digest, scope=scope, code="load_failed", count=count, retry_in_s=wait_s
        )
        self._failures[row.model, row.digest] = (failure, self.now + wait_s)
        self._snapshot_due = True
        return failure

    def failure(self, profile: Profile) -> Failure | None:
        """What forbids a load now."""
        failure, until = self._failures.get((profile.id, profile.digest), (None, 0.0))
        left_s = until - self.now
        return structs.replace(failure, retry_in_s=left_s) if failure is not None and left_s > 0 else None

    def room_mb(self, device: Device, leaving: Iterable[Row] = ()) -> int:
        """What nobody has or was promised, once those have left."""
        gone = {row.id for row in leaving}
        claimed = sum(row.claim_mb(device.id) for row in self.rows.values() if row.id not in gone)
        return device.memory_mb - device.used_by_others_mb - claimed

    def free_mb(self, device: Device) -> int:
        """What no replica has at this moment."""
        held = sum(share.memory_mb for row in self.rows.values() for share in row.shares if share.id == device.id)
        return device.memory_mb - device.used_by_others_mb - held

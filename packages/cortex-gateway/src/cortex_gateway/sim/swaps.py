"""Loads and unloads of a simulated neuron: each is one operation, owned by the neuron and not by who asked for it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, Literal

from msgspec import structs

from cortex_core.fleet import Device, Profile, Share, State
from cortex_core.neuron_api import LoadRequest, Operation, UnloadRequest, Victim
from cortex_gateway.sim.connection import Broken
from cortex_gateway.sim.engine import Engine
from cortex_gateway.sim.truth import GUARD_S, LoadFault, Model, Row, Truth

COMING = frozenset({State.LOADING, State.RECOVERING})
MOVING = frozenset({State.LOADING, State.DRAINING, State.UNLOADING})


class Running:
    """A load under way, or ended and kept for who asks again."""

    __slots__ = ("body", "ended", "error", "row")

    def __init__(self, body: LoadRequest, row: Row) -> None:
        self.body = body
        self.row = row
        self.ended = asyncio.Event()
        self.error: Exception | None = None

    def end(self, error: Exception | None = None) -> None:
        if not self.ended.is_set():
            self.error = error
            self.ended.set()


class Swaps(Truth):
    """A load reserves its memory before anything starts, then lets its victims go; nobody else starts it a second time.

    Args:
        tasks: who owns the operations.
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
        super().__init__(name, devices, models, on_change, guard_s)
        self.loads: list[str] = []  # models, as their loads began
        self.work: Counter[str] = Counter()  # of all its engines
        self.cut = 0  # answers that ended early, by a fault or an operator
        self.faults: dict[str, list[LoadFault]] = {}  # of a model's next loads
        self._tasks = tasks
        self._operations: dict[str, Running] = {}
        self._active: dict[str, asyncio.Task[object]] = {}  # by the replica that is loaded or unloaded
        self._rows = 0

    # ---------------------------------------------------------------- commands

    async def load(self, request: LoadRequest) -> Operation:
        """`POST /models/load`. Returns when the model serves; a caller that leaves changes nothing.

        Raises:
            Refused: and nothing was begun, or it failed.
            Broken: the neuron died.
        """
        running = self._operations.get(request.operation_id)
        if running is not None and running.body != request:
            raise self.refuse("bad_request", "this operation_id stood for another command", field="operation_id")
        joined = running is not None
        if running is None:
            found = self._found(request)
            if isinstance(found, Row):
                return self._done(request.operation_id, "load", found, joined=True)
            running, joined = (found, True) if found else (self._begin(request), False)
        await running.ended.wait()
        if running.error is not None:
            raise running.error
        return self._done(request.operation_id, "load", running.row, joined=joined)

    async def unload(self, request: UnloadRequest) -> Operation:
        """`POST /models/unload`. Only an operator's `cut` ends answers.

        Raises:
            Refused: and the replica serves on.
            Broken: the neuron died.
        """
        row = self.rows.get(request.replica)
        if row is None:
            row = next((r for r in self.rows.values() if r.model == request.model_id), None)
        if row is None:
            raise self.refuse("not_found", f"no replica {request.replica or request.model_id}")
        if request.version not in {None, row.version} or row.state is not State.READY:
            raise self.refuse("outrun", f"replica {row.id} is {row.state}, version {row.version}", row)
        if self.pins.get(row.model):
            raise self.refuse("busy", f"{row.model} is pinned", row)
        if request.mode == "idle" and not row.is_idle:
            raise self.refuse("busy", f"{row.engine.in_flight} requests run on replica {row.id}", row)
        if request.mode == "cut":
            self.cut += row.engine.cut()
        ready_at, instance_id = row.ready_at, self.instance_id
        if not request.replica:
            row.ready_at = None  # an operator's word: it needs not have served anybody
        self._close([row])
        await asyncio.wait([self._start(row, self._gone([row], request.drain_s))])
        if self.instance_id != instance_id or not self.up:
            raise Broken
        if row.id in self.rows:
            row.ready_at = ready_at
            raise self.refuse("drain_timeout", f"replica {row.id} was busy for {request.drain_s:g} s", row)
        return self._done(request.operation_id, "unload", row)

    def _done(self, operation_id: str, kind: Literal["load", "unload"], row: Row, *, joined: bool = False) -> Operation:
        return Operation(
            id=operation_id, kind=kind, status="done", model=row.model, replica=self.view(row), joined=joined
        )

    # ---------------------------------------------------------------- judging a load; nothing awaits here

    def _found(self, request: LoadRequest) -> Row | Running | None:
        """The replica that serves already, or the load to join. A model that is leaving gets a row of its own."""
        if request.instance_id not in {"", self.instance_id}:
            raise self.refuse("outrun", "another start of this neuron was meant", *self.rows.values())
        moved = {victim.replica for victim in request.evict}
        for row in self.rows.values():
            if row.model != request.model or row.id in moved:
                continue
            if row.state in COMING:
                running = (one for one in self._operations.values() if one.row is row and not one.ended.is_set())
                return next(running)
            other = request.profile is not None and row.digest != request.profile.digest
            if row.state is State.READY and not (request.replace and other):
                return row
        return None

    def _begin(self, request: LoadRequest) -> Running:
        """Reserve the memory and start the operation."""
        profile = request.profile
        if profile is None or profile.id not in self.models:
            raise self.refuse("bad_request", "profile: no such model", field="profile")
        if self.cordoned:
            raise self.refuse("cordoned", f"{self.name} takes no new loads")
        if failure := self.failure(profile):
            raise self.refuse("load_failed", failure.code, failure=failure, retry_in_s=failure.retry_in_s)
        victims = [self._victim(victim, profile.id) for victim in request.evict]
        place = self._place(request, profile, victims)
        speed = self.models[profile.id].speed
        if profile.max_in_flight:
            limits = {"max_in_flight": profile.max_in_flight, "max_queue_depth": profile.max_queue_depth}
            speed = structs.replace(speed, **limits)
        self._rows += 1
        row = Row(
            f"{self.instance_id}.{self._rows}",
            profile.id,
            profile.digest,
            Engine(speed, self.beat_soon, self.work),
            place,
        )
        row.shares = tuple(Share(s.id, max(0, min(s.memory_mb, self.free_mb(self._device(s.id))))) for s in place)
        running = self._operations[request.operation_id or row.id] = Running(request, row)
        self.rows[row.id] = row
        self.loads.append(row.model)
        self.changed(row)
        self._close(victims)
        self._start(row, self._swap(running, victims, max((v.drain_s for v in request.evict), default=0.0)))
        return running

    def _victim(self, victim: Victim, model: str) -> Row:
        """A replica that may go: as it was when that was decided, not pinned, not in its turn."""
        row = self.rows.get(victim.replica)
        if row is None:
            raise self.refuse("outrun", f"replica {victim.replica} is not here any more", *self.rows.values())
        if row.version != victim.version or row.state is not State.READY:
            raise self.refuse("outrun", f"replica {row.id} is {row.state}, version {row.version}", row)
        if victim.mode == "idle" and not row.is_idle:
            raise self.refuse("busy", f"{row.engine.in_flight} requests run on replica {row.id}", row)
        if row.model != model and self.pins.get(row.model):
            raise self.refuse("busy", f"{row.model} is pinned", row)
        if row.model != model and (left_s := self.evictable_in_s(row)) > 0:
            raise self.refuse("busy", f"replica {row.id} is protected for {left_s:g} s", row, retry_in_s=left_s)
        return row

    def _place(self, request: LoadRequest, profile: Profile, victims: list[Row]) -> tuple[Share, ...]:
        """The devices and their megabytes: as the gateway placed it, else as it fits here."""
        need_mb = profile.vram_mb or self.models[profile.id].need_mb
        share_mb = -(-need_mb // profile.min_devices)
        room = {device.id: self.room_mb(device, victims) for device in self.devices}
        chosen = request.placement
        if not chosen:
            best = sorted(self.devices, key=lambda device: (-room[device.id], device.id))
            chosen = tuple(Share(device.id, share_mb) for device in best[: profile.min_devices])
        if unknown := [share.id for share in chosen if share.id not in room]:
            raise self.refuse("bad_request", f"placement: no device {unknown[0]}", field="placement")
        pinned = [row for row in self.rows.values() if self.pins.get(row.model)]
        most_mb = {d.id: d.memory_mb - sum(row.claim_mb(d.id) for row in pinned) for d in self.devices}
        if sum(mb >= share_mb for mb in most_mb.values()) < len(chosen):
            numbers = {"need_mb": need_mb, "free_mb": max(most_mb.values())}
            raise self.refuse("model_cannot_fit", f"{profile.id} needs {need_mb} MB", *pinned, **numbers)
        short = [s for s in chosen if room[s.id] < s.memory_mb or s.memory_mb < share_mb]
        if not short:
            return chosen
        here = [row for row in self.rows.values() if any(row.claim_mb(share.id) for share in short)]
        numbers = {"need_mb": need_mb, "free_mb": sum(room[share.id] for share in chosen)}
        code = "outrun" if any(row.state in MOVING for row in here) else "insufficient_memory"
        raise self.refuse(code, f"{short[0].id} has {room[short[0].id]} MB of {share_mb}", *here, **numbers)

    def _device(self, device_id: str) -> Device:
        return next(device for device in self.devices if device.id == device_id)

    # ---------------------------------------------------------------- doing it

    def _start(self, row: Row, work: Coroutine[Any, Any, object]) -> asyncio.Task[object]:
        task = self._active[row.id] = self._tasks.create_task(work, name=f"{self.name} moves {row.model}")
        task.add_done_callback(lambda _: self._active.pop(row.id, None))
        return task

    async def _swap(self, running: Running, victims: list[Row], drain_s: float) -> None:
        row = running.row
        if victims and not await self._gone(victims, drain_s):
            self.changed(row, State.ABSENT)
            running.end(self.refuse("drain_timeout", f"a victim was busy for {drain_s:g} s", *victims))
            return
        row.shares = row.place
        fault = self.faults[row.model].pop(0) if self.faults.get(row.model) else LoadFault()
        whole_s = self.models[row.model].load_s * fault.slower
        row.since = self.now
        row.until = row.since + whole_s
        self.changed(row)
        await asyncio.sleep(whole_s * min(1.0, fault.fails_at))
        if fault.fails_at <= 1.0:
            failure = self.failed(row, fault.scope)
            self.changed(row, State.FAILED)
            retry_in_s = failure.retry_in_s
            running.end(self.refuse("load_failed", "the engine ended", failure=failure, retry_in_s=retry_in_s))
            return
        row.ready_at = self.now
        row.load_s = row.ready_at - row.since
        self.learned(row)
        self.changed(row, State.READY)
        running.end()

    def fell(self, model: str, dead_s: float) -> None:
        """The engine of a model dies by itself, and is started again: `dead_s` and a load later it is back."""
        for row in [row for row in self.rows.values() if row.model == model and row.state is State.READY]:
            self.cut += row.engine.cut()
            row.engine = Engine(row.engine.speed, self.beat_soon, self.work)
            running = Running(LoadRequest(model=model), row)
            self._operations[f"{row.id} again {self.now}"] = running
            self.changed(row, State.RECOVERING)
            self._start(row, self._revive(running, dead_s))

    async def _revive(self, running: Running, dead_s: float) -> None:
        row = running.row
        await asyncio.sleep(dead_s + self.models[row.model].load_s)
        row.ready_at = self.now
        self.changed(row, State.READY)
        running.end()

    def _close(self, rows: list[Row]) -> None:
        """Nobody gets in any more, from this instant on; who holds a lease goes on."""
        idle = all(row.is_idle for row in rows)
        for row in rows:
            row.engine.refuse_waiting(self.refuse("draining", f"replica {row.id} is leaving", row))
            self.changed(row, State.UNLOADING if idle else State.DRAINING)

    async def _gone(self, rows: list[Row], drain_s: float) -> bool:
        """Wait until nobody holds a lease, then let them go. Not in time: the gates open again."""
        try:
            async with asyncio.timeout(drain_s):
                for row in rows:
                    await row.engine.empty.wait()
        except TimeoutError:
            for row in rows:
                self.changed(row, State.READY)
            return False
        for row in rows:
            if row.state is not State.UNLOADING:
                self.changed(row, State.UNLOADING)
        await asyncio.sleep(max(self.models[row.model].unload_s for row in rows))
        for row in rows:
            self.changed(row, State.ABSENT)
        return True

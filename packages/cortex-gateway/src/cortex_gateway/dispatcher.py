"""The sole owner of the fleet's picture and of everyone who waits.

Its whole mutable state is named in `__init__`. `pump()` is synchronous: it asks `schedule` what to do and does it;
nothing awaits between reading the picture and writing it, so there are no locks. Swaps are tasks of the dispatcher,
never of a request, and their results are again events.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from bisect import insort
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from msgspec import Struct, structs

from cortex_core.errors import CortexError
from cortex_core.fleet import Fleet, Neuron, Profile, Replica, State
from cortex_core.neuron_api import LoadRequest, Operation, Refusal, Victim
from cortex_gateway.commands import Commands, Refused, Unreachable
from cortex_gateway.policy.picture import Intent, Key, Picture
from cortex_gateway.policy.schedule import Demand, Refuse, Serve, Swap, intend, pick, schedule
from cortex_gateway.policy.transitions import Answered, Event, apply

TICK_S = 1.0  # while somebody waits: what only time changes (ages, pauses, others' leases) is looked at so often
PAUSE_S, PAUSE_MAX_S = 0.1, 5.0  # after a refusal, doubled with each further one


class Want(Struct, frozen=True, kw_only=True):
    """What a request needs of the fleet."""

    model: str  # a profile's id
    request_id: str
    caller: str = ""
    streaming: bool = False
    arrived: float = 0.0  # monotonic
    hold_s: float = 240.0  # from arrival until it is told to come again
    priority: int = 5


class SwapRecord(Struct, frozen=True, kw_only=True):
    """A swap that ended, for the metrics."""

    model: str
    neuron: str
    seconds: float
    victims: tuple[str, ...]  # models
    error: str = ""  # a refusal's code; empty: it serves


class Lease:
    """A request's hold on a replica: `async with dispatcher.lease(want) as lease`."""

    __slots__ = ("_dispatcher", "cold", "neuron", "profile", "replica", "waited_s", "want")

    neuron: Neuron
    replica: Replica
    profile: Profile

    def __init__(self, dispatcher: Dispatcher, want: Want) -> None:
        self._dispatcher = dispatcher
        self.want = want
        self.cold = False
        self.waited_s = 0.0

    async def __aenter__(self) -> Self:
        await self._dispatcher._acquire(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._dispatcher._release(self)


class _Waiter:
    __slots__ = ("cold", "future", "lease")

    def __init__(self, lease: Lease, future: asyncio.Future[Key]) -> None:
        self.lease = lease
        self.future = future
        self.cold = False

    def __lt__(self, other: _Waiter) -> bool:
        return self.lease.want.arrived < other.lease.want.arrived


class Dispatcher:
    """Leases on replicas, and the loads that make them possible."""

    def __init__(
        self,
        fleet: Fleet,
        commands: Commands,
        *,
        max_waiters: int = 1000,
        clock: Callable[[], float] = time.monotonic,
        on_swap: Callable[[SwapRecord], None] = lambda _: None,
    ) -> None:
        self._fleet = fleet
        self._leases: dict[Key, int] = {}
        self._used_at: dict[Key, float] = {}
        self._waiters: dict[str, list[_Waiter]] = {}  # by model, oldest first; never an empty list
        self._intents: dict[str, Intent] = {}
        self._needs_mb: dict[str, int] = {}
        self._paused: dict[Key, float] = {}
        self._refusals: dict[Key, int] = {}  # in a row
        self._swaps: asyncio.TaskGroup | None = None
        self._stirred = asyncio.Event()  # somebody began to wait
        self._commands = commands
        self._max_waiters = max_waiters
        self._clock = clock
        self._on_swap = on_swap

    @property
    def fleet(self) -> Fleet:
        return self._fleet

    @property
    def intents(self) -> Mapping[str, Intent]:
        return self._intents

    def waiting(self) -> dict[str, tuple[int, float]]:
        """Model → (how many wait, age of the oldest in seconds)."""
        now = self._clock()
        return {model: (len(queue), now - queue[0].lease.want.arrived) for model, queue in self._waiters.items()}

    def leases(self, neuron: str, replica: str) -> int:
        """How many requests of this gateway hold a lease on it."""
        return self._leases.get((neuron, replica), 0)

    def observe(self, event: Event) -> None:
        """Something was heard. Whatever becomes possible by it happens before this returns."""
        before, self._fleet = self._fleet, apply(self._fleet, event)
        if self._fleet is not before:
            self.pump()

    def lease(self, want: Want) -> Lease:
        """A hold on a replica of `want.model`, for as long as the block lasts.

        Entering it waits, for `want.hold_s` from its arrival at most.

        Raises:
            CortexError: why it cannot be served, or not yet.
        """
        return Lease(self, want)

    def reject(self, lease: Lease, refusal: Refusal) -> None:
        """The neuron refused a request under this lease: believe it, so that the next decision is on truth."""
        neuron, replica = lease.neuron, lease.replica
        replicas = refusal.replicas
        if refusal.code in {"not_loaded", "failed"} and not any(r.id == replica.id for r in replicas):
            replicas = (*replicas, structs.replace(replica, state=State.ABSENT, version=replica.version + 1))
        if refusal.code in {"full", "loading", "waking"}:
            self._pause((neuron.name, replica.id), refusal.retry_in_s)
        self.observe(Answered(neuron.name, neuron.instance_id, replicas))

    async def run(self) -> None:
        """Own the swaps and the timers until cancelled. A bug in one of them ends it."""
        async with asyncio.TaskGroup() as self._swaps:
            self.pump()
            while True:
                await self._stirred.wait()
                await asyncio.sleep(TICK_S if not self._paused else PAUSE_S)
                if not self._waiters:
                    self._stirred.clear()
                self.pump()

    def pump(self) -> None:
        """Do everything that can be done now for those who wait."""
        if not self._waiters or self._swaps is None:
            return
        picture = self._picture()
        demands = [
            Demand(
                model=model,
                waiters=len(queue),
                oldest=queue[0].lease.want.arrived,
                priority=max(waiter.lease.want.priority for waiter in queue),
            )
            for model, queue in self._waiters.items()
        ]
        for action in schedule(picture, demands):
            match action:
                case Serve():
                    for waiter in self._take(action.model, action.count):
                        self._grant(waiter, (action.neuron, action.replica))
                case Refuse():
                    for waiter in self._take(action.model, len(self._waiters[action.model])):
                        waiter.future.set_exception(_told(action))
                case Swap():
                    self._start(picture, action)

    def _picture(self) -> Picture:
        now = self._clock()
        if self._paused:
            self._paused = {key: until for key, until in self._paused.items() if until > now}
        return Picture(
            fleet=self._fleet,
            now=now,
            leases=self._leases,
            used_at=self._used_at,
            intents=self._intents,
            needs_mb=self._needs_mb,
            paused=self._paused,
        )

    # ------------------------------------------------------------------ leases

    async def _acquire(self, lease: Lease) -> None:
        want = lease.want
        if want.model not in self._waiters:
            found = pick(self._picture(), want.model)
            if found is not None:
                lease.neuron, lease.replica = found
                self._count((found[0].name, found[1].id))
                self._tell(lease)
                return
        waiter = self._enqueue(lease)
        key: Key | None = None
        try:
            async with asyncio.timeout(want.arrived + want.hold_s - self._clock()):
                key = await waiter.future
        except TimeoutError:
            raise self._too_late(want) from None
        finally:
            if key is None:
                self._abandon(waiter)
        lease.cold = lease.cold or waiter.cold
        lease.neuron = self._fleet.neurons[key[0]]
        replica = lease.neuron.replica(key[1])
        if replica is None:  # it went between the grant and now, and the neuron would only refuse
            self._uncount(key)
            await self._acquire(lease)
            return
        lease.replica = replica
        self._tell(lease)

    def _enqueue(self, lease: Lease) -> _Waiter:
        model = lease.want.model
        if model not in self._fleet.profiles:
            raise CortexError("model_not_found", f"model: {model}", param="model")
        queue = self._waiters.get(model, [])
        if len(queue) >= self._max_waiters or sum(map(len, self._waiters.values())) >= 4 * self._max_waiters:
            raise CortexError("queue_full", f"{len(queue)} requests already wait for {model}")
        waiter = _Waiter(lease, asyncio.get_running_loop().create_future())
        insort(self._waiters.setdefault(model, []), waiter)
        self._stirred.set()
        self.pump()
        return waiter

    def _abandon(self, waiter: _Waiter) -> None:
        """It left, was refused, or waited too long. Granted in the same turn of the loop: the lease is given back."""
        model, future = waiter.lease.want.model, waiter.future
        if future.done() and not future.cancelled() and future.exception() is None:
            self._uncount(future.result())
            return
        queue = self._waiters.get(model)
        if queue is not None and waiter in queue:
            queue.remove(waiter)
            if not queue:
                del self._waiters[model]

    def _take(self, model: str, count: int) -> list[_Waiter]:
        """Remove the oldest waiters of a model from its queue. One that was cancelled is passed over."""
        queue = self._waiters.get(model, [])
        taken: list[_Waiter] = []
        while queue and len(taken) < count:
            waiter = queue.pop(0)
            if not waiter.future.done():
                taken.append(waiter)
        if not queue:
            self._waiters.pop(model, None)
        return taken

    def _grant(self, waiter: _Waiter, key: Key) -> None:
        self._count(key)
        waiter.future.set_result(key)

    def _count(self, key: Key) -> None:
        self._leases[key] = self._leases.get(key, 0) + 1

    def _tell(self, lease: Lease) -> None:
        lease.profile = self._fleet.profiles[lease.want.model]
        lease.waited_s = self._clock() - lease.want.arrived

    def _release(self, lease: Lease) -> None:
        key = (lease.neuron.name, lease.replica.id)
        self._refusals.pop(key, None)
        self._uncount(key)

    def _uncount(self, key: Key) -> None:
        left = self._leases.get(key, 0) - 1
        if left > 0:
            self._leases[key] = left
        else:
            self._leases.pop(key, None)
        self._used_at[key] = self._clock()
        self.pump()

    def _too_late(self, want: Want) -> CortexError:
        """What to tell one who waited `hold_s`: the load goes on without it."""
        for neuron in self._fleet.neurons.values():
            for replica in neuron.replicas:
                if replica.model == want.model and replica.state in {State.LOADING, State.RECOVERING, State.WAKING}:
                    phase = f"{replica.phase or replica.state}, {replica.progress:.0%}"
                    left = f", about {replica.expected_s:.0f} s left" if replica.expected_s else ""
                    return CortexError("loading", f"{want.model} is loading ({phase}{left})")
        if not any(neuron.up for neuron in self._fleet.neurons.values()):
            return CortexError("no_neuron", "no neuron is up")
        return CortexError("no_capacity", f"no room for {want.model} within {want.hold_s:.0f} s")

    # ------------------------------------------------------------------ swaps

    def _start(self, picture: Picture, swap: Swap) -> None:
        assert self._swaps is not None
        intent = intend(picture, swap, f"op-{uuid.uuid4().hex[:16]}")
        self._intents[intent.operation_id] = intent
        for waiter in self._waiters.get(swap.model, ()):
            waiter.cold = True
        self._swaps.create_task(self._swap(intent, swap), name=f"swap {swap.model} on {intent.neuron}")

    async def _swap(self, intent: Intent, swap: Swap) -> None:
        neuron = self._fleet.neurons[intent.neuron]
        request = LoadRequest(
            operation_id=intent.operation_id,
            instance_id=neuron.instance_id,
            model=swap.model,
            profile=self._fleet.profiles[swap.model],
            placement=swap.candidate.shares,
            evict=tuple(Victim(replica=r.id, version=r.version) for r in swap.candidate.victims),
        )
        error = ""
        try:
            operation = await self._commands.load(intent.neuron, request)
        except Refused as refused:
            error = refused.refusal.code
            self._refused(intent, neuron.instance_id, refused.refusal)
        except Unreachable:
            error = "unreachable"
            self._pause((intent.neuron, intent.model), 1.0)
        else:
            self._loaded(intent, neuron.instance_id, operation)
        finally:
            del self._intents[intent.operation_id]
        seconds = self._clock() - intent.since
        victims = tuple(replica.model for replica in swap.candidate.victims)
        self._on_swap(
            SwapRecord(model=intent.model, neuron=intent.neuron, seconds=seconds, victims=victims, error=error)
        )
        self.pump()

    def _loaded(self, intent: Intent, instance_id: str, operation: Operation) -> None:
        self._refusals.pop((intent.neuron, intent.model), None)
        if operation.replica is not None:
            self._fleet = apply(self._fleet, Answered(intent.neuron, instance_id, (operation.replica,)))

    def _refused(self, intent: Intent, instance_id: str, refusal: Refusal) -> None:
        """The neuron's truth differs: take it over, and do not ask the same again at once."""
        key = (intent.neuron, intent.model)
        answer = Answered(intent.neuron, instance_id, refusal.replicas, refusal.failure)
        self._fleet = apply(self._fleet, answer)
        if refusal.need_mb:
            self._needs_mb[intent.model] = max(refusal.need_mb, self._needs_mb.get(intent.model, 0))
        self._pause(key, refusal.retry_in_s)
        if refusal.code in {"model_cannot_fit", "bad_request"}:
            details: dict[str, Any] = {"need_mb": refusal.need_mb, "free_mb": refusal.free_mb, **refusal.details}
            kind = "model_cannot_fit" if refusal.code == "model_cannot_fit" else "model_unusable"
            told = Refuse(model=intent.model, kind=kind, message=refusal.message, details=details)
            for waiter in self._take(intent.model, len(self._waiters.get(intent.model, ()))):
                waiter.future.set_exception(_told(told))

    def _pause(self, key: Key, seconds: float) -> None:
        """Leave a replica, or a model on a neuron, alone for a while: the longer, the more often it refused."""
        times = self._refusals[key] = self._refusals.get(key, 0) + 1
        pause_s = seconds or min(PAUSE_S * 2 ** (times - 1), PAUSE_MAX_S)
        self._paused[key] = self._clock() + pause_s


def _told(action: Refuse) -> CortexError:
    return CortexError(
        action.kind,
        action.message,
        param="model" if action.kind in {"model_not_found", "model_cannot_fit"} else None,
        retry_after_s=action.retry_after_s,
        details=action.details,
    )

"""The sole owner of the fleet's picture and of everyone who waits.

Its whole mutable state is named in `__init__`. `pump()` is synchronous: it asks `schedule` what to do and does it;
nothing awaits between reading the picture and writing it, so there are no locks. Swaps are tasks of the dispatcher,
never of a request, and their results are again events.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from types import TracebackType
from typing import Any, Literal, Self

from msgspec import Struct, structs

from cortex_core.errors import CortexError
from cortex_core.fleet import Demand, Fleet, Neuron, Profile, Replica, State
from cortex_core.neuron_api import DemandRequest, Refusal
from cortex_gateway.commands import Commands, Refused, Unreachable
from cortex_gateway.policy.breaker import Breaker, after_failure, state
from cortex_gateway.policy.defrag import defragment
from cortex_gateway.policy.picture import Key, Picture
from cortex_gateway.policy.placement import Candidate
from cortex_gateway.policy.recovery import COMING, note
from cortex_gateway.policy.schedule import Refuse, Serve, Swap, hosts, pick, schedule
from cortex_gateway.policy.survey import Surveys
from cortex_gateway.policy.transitions import Answered, Beat, Demanded, Event, Reprofiled, apply
from cortex_gateway.policy.upkeep import LetGo, upkeep
from cortex_gateway.swaps import SwapRecord, Swaps
from cortex_gateway.waiting import Waiter, WaitingRoom, Want

__all__ = ["Dispatcher", "Lease", "Rules", "SwapRecord", "Want"]

TICK_S = 1.0
"""What only time changes (ages, pauses, others' leases) is looked at so often; waits are posted as often."""
SMOOTH = 0.2  # weight of the newest sample in a moving average


class Lease:
    """A request's hold on a replica: `async with dispatcher.lease(want) as lease`."""

    __slots__ = ("_dispatcher", "_since", "cold", "considered", "neuron", "profile", "replica", "waited_s", "want")

    neuron: Neuron
    replica: Replica
    profile: Profile

    def __init__(self, dispatcher: Dispatcher, want: Want) -> None:
        self._dispatcher = dispatcher
        self._since = 0.0
        self.want = want
        self.cold = False  # it waited for a load
        self.considered: tuple[Candidate, ...] = ()  # by the swap that was made for it
        self.waited_s = 0.0

    async def __aenter__(self) -> Self:
        await self._dispatcher._acquire(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._dispatcher._release(self)

    def succeeded(self, *, first_token_s: float = 0.0, tokens: int = 0) -> None:
        """The replica did its work: what it took, for its pace and for the caller's fair share."""
        self._dispatcher._succeeded(self, first_token_s, tokens)

    def failed(self) -> None:
        """The replica failed by its own fault: a 5xx, or a broken connection. Never for a client's mistake."""
        self._dispatcher._failed(self)


class Rules(Struct, frozen=True, kw_only=True):
    """What the configuration says of the decisions."""

    gateway: str = "gateway"  # our own name, different from every other gateway's
    strategy: Literal["cost", "lru", "priority"] = "cost"
    defrag_after: int = 0  # swaps
    max_waiters: int = 1000  # for a model


class Dispatcher:
    """Leases on replicas, and the loads that make them possible."""

    def __init__(
        self,
        fleet: Fleet,
        commands: Commands,
        rules: Rules | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_swap: Callable[[SwapRecord], None] = lambda _: None,
    ) -> None:
        self._fleet = fleet
        self._leases: dict[Key, int] = {}
        self._used_at: dict[Key, float] = {}
        self._rules = rules = rules or Rules()
        self._room = WaitingRoom(rules.max_waiters)
        self._swaps = Swaps(self, commands)
        self._on_swap = on_swap
        self._paused: dict[Key, float] = {}
        self._caps: dict[Key, int] = {}
        self._breakers: dict[Key, Breaker] = {}
        self._pace_s: dict[Key, float] = {}
        self._held_s: dict[str, float] = {}
        self._fell_at: dict[Key, float] = {}
        self._surveys = Surveys()
        self._tasks: asyncio.TaskGroup | None = None
        self._posted: set[str] = set()  # models that neurons were told are waited for
        self._cycles: dict[str, int] = {}  # completed swaps of a neuron since it was defragmented
        self._commands = commands
        self.clock = clock

    @property
    def fleet(self) -> Fleet:
        return self._fleet

    def waiting(self) -> dict[str, tuple[int, float]]:
        """Model → (how many wait, age of the oldest in seconds)."""
        now = self.clock()
        return {b.model: (b.waiters, now - b.oldest) for b in self._room.backlogs() if b.waiters}

    def leases(self, neuron: str, replica: str) -> int:
        """How many requests of this gateway hold a lease on it."""
        return self._leases.get((neuron, replica), 0)

    def picture(self) -> Picture:
        """What a decision is made on, now."""
        now = self.clock()
        if self._paused:
            self._paused = {key: until for key, until in self._paused.items() if until > now}
        return Picture(
            fleet=self._fleet,
            now=now,
            strategy=self._rules.strategy,
            gateway=self._rules.gateway,
            leases=self._leases,
            used_at=self._used_at,
            intents=self._swaps.intents,
            needs_mb=self._swaps.needs_mb,
            paused=self._paused,
            caps=self._caps,
            breakers=self._breakers,
            pace_s=self._pace_s,
            held_s=self._held_s,
            fell_at=self._fell_at,
            surveys=self._surveys,
        )

    def observe(self, event: Event) -> None:
        """Something was heard. Whatever becomes possible by it happens before this returns."""
        before, self._fleet = self._fleet, apply(self._fleet, event)
        if self._fleet is before:
            return
        if isinstance(event, Reprofiled):
            self._surveys.forget_all()
        else:
            was, now = before.neurons[event.neuron], self._fleet.neurons[event.neuron]
            note(self._fell_at, was, now, self.clock())
            if not self._surveys.heard(was, now) and isinstance(event, Beat | Demanded):
                return
        self.pump()

    def lease(self, want: Want) -> Lease:
        """A hold on a replica of `want.model`, for as long as the block lasts.

        Entering it waits, for `want.hold_s` from its arrival at most.

        Raises:
            CortexError: why it cannot be served, or not yet.
        """
        return Lease(self, want)

    def has_room(self, want: Want) -> bool:
        """Whether a lease would be had now, without a wait."""
        return want.model not in self._room and pick(self.picture(), want.model, want.key) is not None

    def reject(self, lease: Lease, refusal: Refusal) -> None:
        """The neuron refused the request of a lease that has ended: believe it, and decide again on truth."""
        neuron, replica = lease.neuron, lease.replica
        key, replicas = (neuron.name, replica.id), refusal.replicas
        if refusal.code in {"not_loaded", "failed"} and not any(r.id == replica.id for r in replicas):
            replicas = (*replicas, structs.replace(replica, state=State.ABSENT, version=replica.version + 1))
        if refusal.code == "full":
            self._caps[key] = max(1, self._leases.get(key, 0))  # one goes on asking, or nobody would ever learn more
        if refusal.code in {"full", "loading", "waking"}:
            self.pause(key, refusal.retry_in_s)
        self.observe(Answered(neuron.name, neuron.instance_id, replicas))

    def pause(self, key: Key, seconds: float) -> None:
        """Leave a replica, or a model on a neuron, alone for a while."""
        pause_s = seconds or self._swaps.patience_s(key)
        self._paused[key] = self.clock() + pause_s
        asyncio.get_running_loop().call_later(pause_s, self.pump)

    def moved(self, neuron: str) -> None:
        """A swap there was decided, or has ended."""
        self._surveys.forget(neuron)

    def swapped(self, record: SwapRecord) -> None:
        """One ended, however."""
        if not record.error:
            self._cycles[record.neuron] = self._cycles.get(record.neuron, 0) + 1
        self._on_swap(record)
        self.pump()

    async def run(self) -> None:
        """Own the swaps and the timers until cancelled. A bug in one of them ends it."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            try:
                while True:
                    self._tick()
                    await asyncio.sleep(TICK_S)
            finally:
                self._tasks = None  # leases still end, and start nothing any more

    def spawn(self, action: Swap | LetGo, picture: Picture) -> asyncio.Task[SwapRecord]:
        """Start what was decided; while `run` runs only."""
        assert self._tasks is not None
        return self._tasks.create_task(self._swaps.begin(action, picture), name=type(action).__name__)

    def _tick(self) -> None:
        now = self.clock()
        self._room.expire(now)
        self._forget_the_gone()
        picture = self.picture()
        backlogs = self._room.backlogs()
        wanted = {backlog.model for backlog in backlogs}
        for action in upkeep(picture, wanted):
            self.spawn(action, picture)
        picture = self.picture()
        for move in defragment(picture, self._cycles, self._rules.defrag_after, wanted or self._held_s.keys()):
            self._cycles[move.candidate.neuron] = 0
            self.spawn(move, picture)
        self._post_demand()
        self.pump()

    def _post_demand(self, neurons: Collection[str] | None = None) -> None:
        """Tell each neuron that could host them, or only these, what waits here."""
        assert self._tasks is not None
        now, picture, backlogs = self.clock(), self.picture(), self._room.backlogs()
        posts: dict[str, dict[str, Demand]] = {name: {} for name in neurons or ()}
        for backlog in backlogs:
            demand = Demand(backlog.waiters + backlog.tickets, max(0.0, now - backlog.oldest))
            profile = self._fleet.profiles.get(backlog.model)
            for neuron in hosts(picture, profile) if profile else ():
                if neurons is None or neuron in neurons:
                    posts.setdefault(neuron, {})[backlog.model] = demand
        for neuron, models in posts.items():
            self._tasks.create_task(self._post(neuron, DemandRequest(gateway=self._rules.gateway, models=models)))
        self._posted = {backlog.model for backlog in backlogs}

    def _withdraw(self) -> None:
        """Nobody waits for a model any more: where it is, its turn lasts no longer than that."""
        ended = {model for model in self._posted if not self._room.waits(model)}
        if ended:
            self._post_demand({neuron.name for model in ended for neuron, _ in self.picture().replicas(model)})

    async def _post(self, neuron: str, request: DemandRequest) -> None:
        try:
            await self._commands.demand(neuron, request)
        except (Refused, Unreachable):
            return  # the next one comes in a second

    def pump(self, *, places: bool = True) -> None:
        """Do everything that can be done now for those who wait; without `places`, only what a free slot allows."""
        if self._tasks is None:
            return
        if not self._room.is_quiet:
            self._decide(places)
        if self._posted:
            self._withdraw()

    def _decide(self, places: bool) -> None:
        picture = self.picture()
        for action in schedule(picture, self._room.backlogs(), places=places):
            match action:
                case Serve():
                    self._serve(action, picture)
                case Refuse():
                    self.refuse(action)
                case Swap():
                    for waiter in self._room.of(action.model):
                        waiter.swapped = True
                        waiter.considered = action.considered
                    self.spawn(action, picture)

    def _serve(self, action: Serve, picture: Picture) -> None:
        for _ in range(action.count):
            waiter = self._room.next(action.model)
            if waiter is None:
                return
            found = pick(picture, action.model, waiter.want.key)
            assert found is not None, "there was room when it was counted, and nothing happened since"
            key = (found[0].name, found[1].id)
            self._count(key)
            waiter.future.set_result(key)

    def refuse(self, action: Refuse) -> None:
        """Tell everyone who waits for the model."""
        for waiter in self._room.everyone(action.model):
            error = CortexError(
                action.kind,
                action.message,
                param="model" if action.kind in {"model_not_found", "model_cannot_fit"} else None,
                retry_after_s=action.retry_after_s,
                details=action.details,
            )
            waiter.future.set_exception(error)

    async def _acquire(self, lease: Lease) -> None:
        want = lease.want
        if want.model not in self._fleet.profiles:
            raise CortexError("model_not_found", f"model: {want.model}", param="model")
        if self.clock() > want.arrived + want.hold_s:  # neurons refused it until its time was over
            self._room.expect_back(want, want.arrived, self.clock())
            raise self._too_late(want)
        found = None if want.model in self._room else pick(self.picture(), want.model, want.key)
        if found is not None:
            self._count((found[0].name, found[1].id))
        while found is None:
            found = await self._wait(lease)
        lease.neuron, lease.replica = found
        lease.profile = self._fleet.profiles.get(want.model) or Profile(id=want.model)
        lease._since = self.clock()
        lease.waited_s = lease._since - want.arrived

    async def _wait(self, lease: Lease) -> tuple[Neuron, Replica] | None:
        """In the queue until granted. None: the replica went between the grant and now; wait again."""
        want = lease.want
        joins = want.model in self._room
        waiter = self._room.enter(want, asyncio.get_running_loop().create_future(), self.clock())
        key: Key | None = None
        try:
            async with asyncio.timeout(want.arrived + want.hold_s - self.clock()):
                if not joins:  # else nothing has changed since those before it were not served
                    self.pump()
                if not waiter.future.done() and self.picture().is_under_way(want.model):
                    waiter.swapped = True  # it joins a load that somebody else began
                key = await waiter.future
        except TimeoutError:
            self._room.expect_back(want, waiter.arrived, self.clock())
            raise self._too_late(want) from None
        finally:
            if key is None:
                self._abandon(waiter)
        lease.cold = lease.cold or waiter.swapped
        lease.considered = waiter.considered
        neuron = self._fleet.neurons[key[0]]
        replica = neuron.replica(key[1])
        if replica is None:
            self._uncount(key)
            return None
        return neuron, replica

    def _abandon(self, waiter: Waiter) -> None:
        """It left, was refused, or waited too long. Granted in the same turn of the loop: the lease is given back."""
        future = waiter.future
        if future.done() and not future.cancelled() and future.exception() is None:
            self._uncount(future.result())
        else:
            self._room.leave(waiter)

    def _count(self, key: Key) -> None:
        held = self._leases[key] = self._leases.get(key, 0) + 1
        if held == 1:
            self._surveys.forget(key[0])
        breaker = self._breakers.get(key)
        if breaker is not None and state(breaker, self.clock()) == "probe":
            self._breakers[key] = structs.replace(breaker, probing=True)

    def _release(self, lease: Lease) -> None:
        held_s = self.clock() - lease._since
        model = lease.want.model
        self._held_s[model] = _smoothed(self._held_s.get(model), held_s)
        self._uncount((lease.neuron.name, lease.replica.id))

    def _uncount(self, key: Key) -> None:
        left = self._leases.get(key, 0) - 1
        if left > 0:
            self._leases[key] = left
        else:
            self._leases.pop(key, None)
            self._surveys.forget(key[0])
        self._used_at[key] = self.clock()
        self.pump(places=left <= 0)

    def _succeeded(self, lease: Lease, first_token_s: float, tokens: int) -> None:
        key = (lease.neuron.name, lease.replica.id)
        self._breakers.pop(key, None)
        self._swaps.forgive(key)
        if key in self._caps:
            self._caps[key] += 1
            if self._caps[key] >= lease.replica.max_in_flight + lease.replica.max_queue_depth:
                del self._caps[key]
        if first_token_s > 0:
            self._pace_s[key] = _smoothed(self._pace_s.get(key), first_token_s)
        if tokens:
            self._room.charge(lease.want.model, lease.want.caller, tokens - lease.want.tokens)

    def _failed(self, lease: Lease) -> None:
        key = (lease.neuron.name, lease.replica.id)
        self._breakers[key] = after_failure(self._breakers.get(key), self.clock())

    def _forget_the_gone(self) -> None:
        """Replicas' ids are never used twice, so what is known of one that went is of no use."""
        here = {(neuron.name, replica.id) for neuron, replica in self._fleet.replicas()}
        books: tuple[dict[Key, Any], ...] = (self._used_at, self._caps, self._breakers, self._pace_s, self._fell_at)
        for book in books:
            for key in [key for key in book if key not in here and key not in self._leases]:
                del book[key]

    def _too_late(self, want: Want) -> CortexError:
        """What to tell one who waited `hold_s`: the load goes on without it."""
        for _, replica in self.picture().replicas(want.model):
            if replica.state in COMING:
                phase = f"{replica.phase or replica.state}, {replica.progress:.0%}"
                left = f", about {replica.expected_s:.0f} s left" if replica.expected_s else ""
                return CortexError("loading", f"{want.model} is loading ({phase}{left})")
        if not any(neuron.up for neuron in self._fleet.neurons.values()):
            return CortexError("no_neuron", "no neuron is up")
        return CortexError("no_capacity", f"no room for {want.model} within {want.hold_s:.0f} s")


def _smoothed(before: float | None, sample: float) -> float:
    return sample if before is None else before + SMOOTH * (sample - before)

"""The sole owner of the fleet's picture, and of everything that is decided on it.

`pump()` is synchronous: it asks `schedule` what to do and does it; nothing awaits between reading the picture and
writing it, so there are no locks. `waiting` keeps who waits, `leases` who was served, `swaps` what is under way: tasks
of the dispatcher, never of a request, whose results are again events.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from msgspec import structs

from cortex_core.errors import CortexError
from cortex_core.fleet import Fleet, Neuron, Replica, State
from cortex_core.neuron_api import Refusal
from cortex_gateway.dispatch.commands import Commands
from cortex_gateway.dispatch.demand import Posts
from cortex_gateway.dispatch.leases import Lease, Leases
from cortex_gateway.dispatch.swaps import SwapRecord, Swaps
from cortex_gateway.dispatch.waiting import Waiter, WaitingRoom, Want
from cortex_gateway.policy.defrag import defragment
from cortex_gateway.policy.picture import Key, Picture
from cortex_gateway.policy.recovery import note
from cortex_gateway.policy.refuse import Refuse, too_late
from cortex_gateway.policy.rules import Rules
from cortex_gateway.policy.schedule import Serve, Swap, pick, schedule
from cortex_gateway.policy.survey import Surveys
from cortex_gateway.policy.transitions import Answered, Beat, Demanded, Event, Reprofiled, apply
from cortex_gateway.policy.upkeep import LetGo, upkeep

__all__ = ["Dispatcher", "Lease", "Rules", "SwapRecord", "Want"]

TICK_S = 1.0
"""What only time changes (ages, pauses, others' leases) is looked at so often; waits are posted as often."""


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
        self.clock = clock
        self._fleet = fleet
        self._rules = rules = rules or Rules()
        self._leases = Leases(clock)
        self._room = WaitingRoom(rules.max_waiters)
        self._swaps = Swaps(self, commands)
        self._on_swap = on_swap
        self._posts = Posts(commands, rules.gateway)
        self._surveys = Surveys(rules.strategy)
        self._cycles: dict[str, int] = {}  # completed swaps of a neuron since it was defragmented
        self._tasks: asyncio.TaskGroup | None = None

    @property
    def fleet(self) -> Fleet:
        return self._fleet

    def waiting(self) -> dict[str, tuple[int, float]]:
        """Model → (how many wait, age of the oldest in seconds)."""
        return {b.model: (b.waiters, self.clock() - b.oldest) for b in self._room.backlogs() if b.waiters}

    def leases(self, neuron: str, replica: str) -> int:
        """How many requests of this gateway hold a lease on it."""
        return self._leases.held.get((neuron, replica), 0)

    def picture(self) -> Picture:
        """What a decision is made on, now."""
        books, now = self._leases, self.clock()
        if books.paused:
            books.forget_pauses(now)
        return Picture(
            fleet=self._fleet,
            now=now,
            strategy=self._rules.strategy,
            gateway=self._rules.gateway,
            leases=books.held,
            used_at=books.used_at,
            intents=self._swaps.intents,
            needs_mb=self._swaps.needs_mb,
            paused=books.paused,
            caps=books.caps,
            breakers=books.breakers,
            pace_s=books.pace_s,
            held_s=books.held_s,
            fell_at=books.fell_at,
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
            note(self._leases.fell_at, was, now, self.clock())
            is_news = self._surveys.heard(was, now)
            self._surveys.catch_up(self.picture)
            if not is_news and isinstance(event, Beat | Demanded):
                return
        self.pump()

    async def lease(self, want: Want) -> Lease:
        """A hold on a replica of `want.model`: waits for it, for `want.hold_s` from its arrival at most.

        Raises:
            CortexError: why it cannot be served, or not yet.
        """
        if want.model not in self._fleet.profiles:
            raise CortexError("model_not_found", f"model: {want.model}", param="model")
        now = self.clock()
        if now > want.arrived + want.hold_s:  # neurons refused it until its time was over
            self._room.expect_back(want, want.arrived, now)
            raise too_late(self.picture(), want.model, want.hold_s).error()
        lease = Lease(self, self._leases, want)
        found = None if want.model in self._room else pick(self.picture(), want.model, want.key)
        if found is not None:
            self._count((found[0].name, found[1].id))
        while found is None:
            found = await self._wait(lease)
            now = self.clock()
        lease.begin(*found, now)
        return lease

    def has_room(self, want: Want) -> bool:
        """Whether a lease would be had without a wait."""
        return want.model not in self._room and pick(self.picture(), want.model, want.key) is not None

    def reject(self, lease: Lease, refusal: Refusal) -> None:
        """The neuron refused the request of a lease that has ended: believe it, and decide again on truth."""
        neuron, replica, replicas = lease.neuron, lease.replica, refusal.replicas
        if refusal.code in {"not_loaded", "failed"} and not any(r.id == replica.id for r in replicas):
            replicas = (*replicas, structs.replace(replica, state=State.ABSENT, version=replica.version + 1))
        if refusal.code == "full":
            self._leases.full(lease.key)
        if refusal.code in {"full", "loading", "waking"}:
            self.pause(lease.key, refusal.retry_in_s)
        self.observe(Answered(neuron.name, neuron.instance_id, replicas))

    def pause(self, key: Key, seconds: float) -> None:
        """Leave a replica, or a model on a neuron, alone for a while."""
        asyncio.get_running_loop().call_later(self._leases.pause(key, seconds), self.pump)

    def forgive(self, key: Key) -> None:
        """It did what it had refused."""
        self._leases.forgive(key)

    def moved(self, neuron: str) -> None:
        """A swap there was decided or has ended, or somebody came where nobody was, or nobody is left."""
        self._surveys.forget(neuron)
        self._surveys.catch_up(self.picture)

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
        assert self._tasks is not None
        self._room.expire(self.clock())
        self._leases.forget_the_gone(self._fleet)
        picture, backlogs = self.picture(), self._room.backlogs()
        wanted = {backlog.model for backlog in backlogs}
        for action in upkeep(picture, wanted):
            self.spawn(action, picture)
        picture = self.picture()
        for move in defragment(picture, self._cycles, self._rules.defrag_after, wanted or self._leases.held_s.keys()):
            self._cycles[move.candidate.neuron] = 0
            self.spawn(move, picture)
        self._posts.post(self._tasks, self.picture(), backlogs)
        self.pump()

    def pump(self, *, places: bool = True) -> None:
        """Do everything that can be done now for those who wait; without `places`, only what a free slot allows."""
        if self._tasks is None:
            return
        if not self._room.is_quiet:
            self._decide(places)
        told = self._posts.models
        ended = {model for model in told if not self._room.waits(model)} if told else told
        if ended:  # where such a model is, its turn lasts no longer than that
            picture = self.picture()
            neurons = {neuron.name for model in ended for neuron, _ in picture.replicas(model)}
            self._posts.post(self._tasks, picture, self._room.backlogs(), neurons)

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
            waiter.future.set_exception(action.error())

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
            raise too_late(self.picture(), want.model, want.hold_s).error() from None
        finally:
            if key is None:
                self._abandon(waiter)
        lease.cold = lease.cold or waiter.swapped
        lease.considered = waiter.considered
        neuron = self._fleet.neurons[key[0]]
        replica = neuron.replica(key[1])
        if replica is None:
            self._uncount(key, self.clock())
            return None
        return neuron, replica

    def _abandon(self, waiter: Waiter) -> None:
        """It left, was refused, or waited too long. Granted in the same turn of the loop: the lease is given back."""
        future = waiter.future
        if future.done() and not future.cancelled() and future.exception() is None:
            self._uncount(future.result(), self.clock())
        else:
            self._room.leave(waiter)

    def _count(self, key: Key) -> None:
        if self._leases.take(key):
            self.moved(key[0])

    def _uncount(self, key: Key, now: float) -> None:
        is_last = self._leases.give_back(key, now)
        if is_last:
            self.moved(key[0])
        self.pump(places=is_last)

    def release(self, lease: Lease) -> None:
        """For `Lease` alone, as is the next."""
        now = self.clock()
        self._leases.lasted(lease.want.model, now - lease.since)
        self._uncount(lease.key, now)

    def took(self, lease: Lease, tokens: int) -> None:
        if tokens:
            self._room.charge(lease.want.model, lease.want.caller, tokens - lease.want.tokens)

"""A dispatcher on its own, in virtual time: neurons say what the test says, and loads end when the test ends them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from msgspec import structs

from cortex_core.fleet import Device, Failure, Profile, Replica, Share, State
from cortex_core.neuron_api import REFUSALS, DemandRequest, LoadRequest, Operation, Refusal, Report, UnloadRequest
from cortex_gateway.dispatch.commands import Refused
from cortex_gateway.dispatch.dispatcher import Dispatcher, Lease, Rules, SwapRecord, Want
from cortex_gateway.policy.transitions import Reported, empty_fleet
from cortex_gateway.sim import clock

CARD = Device(id="cuda:0", name="Card", kind="cuda", memory_mb=24_000)


class Load:
    """A command that came, and waits for its answer."""

    def __init__(self, neuron: str, request: LoadRequest) -> None:
        self.neuron = neuron
        self.request = request
        self.answer: asyncio.Future[Operation] = asyncio.get_running_loop().create_future()

    def done(self, replica: Replica | None = None) -> None:
        self.answer.set_result(Operation(id=self.request.operation_id, kind="load", status="done", replica=replica))

    def refused(self, code: str, **fields: Any) -> None:
        status, retry = REFUSALS[code]
        self.answer.set_exception(Refused(Refusal(code=code, message=code, retry=retry, **fields), status))


class Asking:
    """One request: it waits for its lease, then holds it until `end`."""

    def __init__(self, dispatcher: Dispatcher, want: Want) -> None:
        self.lease: Lease | None = None
        self.error: Exception | None = None
        self._dispatcher = dispatcher
        self._want = want
        self._over = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    async def run(self) -> None:
        try:
            with await self._dispatcher.lease(self._want) as lease:
                self.lease = lease
                await self._over.wait()
        except Exception as error:  # noqa: BLE001 - the test looks at it
            self.error = error

    def is_served(self) -> bool:
        return self.lease is not None

    async def end(self) -> Lease:
        """Its answer is complete."""
        assert self.lease is not None, "it has no lease yet"
        self._over.set()
        await settle()
        return self.lease

    def leave(self) -> None:
        """Its client goes away."""
        assert self.task is not None
        self.task.cancel()


class Stand:
    """The dispatcher, the commands that it gave, and what its neurons say."""

    def __init__(self, profiles: dict[str, Profile], tasks: asyncio.TaskGroup, neurons: int, rules: Rules) -> None:
        self.loads: list[Load] = []
        self.unloads: list[UnloadRequest] = []
        self.swaps: list[SwapRecord] = []
        self.now = asyncio.get_running_loop().time
        names = [f"n{number}" for number in range(1, neurons + 1)]
        fleet = empty_fleet([(name, "") for name in names], profiles)
        self.dispatcher = Dispatcher(fleet, self, rules, clock=self.now, on_swap=self.swaps.append)
        self._tasks = tasks
        self._seq = 0
        self._asked = 0
        for name in names:
            self.says(name)

    async def load(self, neuron: str, request: LoadRequest) -> Operation:
        self.loads.append(Load(neuron, request))
        return await self.loads[-1].answer

    async def unload(self, neuron: str, request: UnloadRequest) -> Operation:
        self.unloads.append(request)
        return Operation(id=request.operation_id, kind="unload", status="done")

    async def demand(self, neuron: str, request: DemandRequest) -> None:
        pass

    def says(self, neuron: str = "n1", *replicas: Replica, instance: str = "", **fields: Any) -> None:
        """A neuron reports that it has these replicas, on a card of 24,000 MB."""
        self._seq += 1
        values = {"devices": (CARD,), "simulated": True, **fields}
        report = Report(name=neuron, instance_id=instance or f"{neuron}.1", seq=self._seq, replicas=replicas, **values)
        self.dispatcher.observe(Reported(neuron, report, self.now()))

    def ask(self, model: str = "m1", **fields: Any) -> Asking:
        """A request comes in."""
        self._asked += 1
        values = {"request_id": f"r{self._asked}", "caller": f"c{self._asked}", "arrived": self.now(), **fields}
        asking = Asking(self.dispatcher, Want(model=model, **values))
        asking.task = self._tasks.create_task(asking.run(), name=values["request_id"])
        return asking

    def leased(self) -> int:
        """Leases on all replicas that any test here has."""
        return sum(self.dispatcher.leases(n, r) for n in ("n1", "n2") for r in ("r1", "r2", "r3"))


def replica(replica_id: str = "r1", model: str = "m1", state: State = State.READY, **fields: Any) -> Replica:
    """One that holds 16,000 MB, serves two at a time, and may be let go."""
    values = {"version": 1, "digest": Profile(id=model).digest, "max_in_flight": 2, "simulated": True, "load_s": 5.0}
    values |= {"devices": (Share("cuda:0", 16_000),)}
    return Replica(id=replica_id, model=model, state=state, **{**values, **fields})


def newer(before: Replica, **fields: Any) -> Replica:
    return structs.replace(before, version=before.version + 1, **fields)


def failure(scope: str = "model", retry_in_s: float = 30.0, model: str = "m1") -> Failure:
    digest = Profile(id=model).digest
    return Failure(model=model, digest=digest, scope=scope, code="load_failed", retry_in_s=retry_in_s)  # type: ignore[arg-type]


async def settle() -> None:
    """Until nothing more happens at this instant: virtual time moves only then."""
    await asyncio.sleep(1e-6)


def play(
    story: Callable[[Stand], Awaitable[None]],
    *,
    seed: int = 0,
    neurons: int = 1,
    needs_mb: dict[str, int] | None = None,
    rules: Rules | None = None,
    **profile: Any,
) -> None:
    """Tell it, with two models of 16,000 MB each; everything that was asked for must be over at its end."""

    async def told() -> None:
        needs = needs_mb or {"m1": 16_000, "m2": 16_000}
        profiles = {name: Profile(id=name, vram_mb=mb, **profile) for name, mb in needs.items()}
        async with asyncio.TaskGroup() as tasks:
            stand = Stand(profiles, tasks, neurons, rules or Rules())
            running = tasks.create_task(stand.dispatcher.run(), name="dispatcher")
            await settle()
            async with asyncio.timeout(3600):
                await story(stand)
            running.cancel()

    clock.run(told(), seed=seed, limit_s=7200)

"""`simulate(scenario, seed) → Outcome`: plays a scenario against the production dispatcher, and checks it all the way.

The same scenario and seed give the same outcome, to the last digit.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter

from msgspec import Struct

from cortex_core.errors import CortexError
from cortex_gateway.dispatch.commands import Refused
from cortex_gateway.dispatch.dispatcher import Lease, SwapRecord, Want
from cortex_gateway.sim import clock, invariants
from cortex_gateway.sim.clients import Ask, Client
from cortex_gateway.sim.connection import Broken, Connection
from cortex_gateway.sim.gateway import SimGateway
from cortex_gateway.sim.neuron import SimNeuron
from cortex_gateway.sim.scenario import Scenario
from cortex_gateway.sim.trouble import befall
from cortex_gateway.sim.truth import Row

AGAIN_S = 1.0  # after a broken connection to a gateway, a client comes again


class Answer(Struct, frozen=True, kw_only=True):
    """How one request of a client ended, over all its tries."""

    client: str
    gateway: str
    model: str
    asked_at: float
    seconds: float
    outcome: str  # served, left, cut, broken, or the kind of the error
    tries: int
    waited_s: float = 0.0  # for its lease, the last time
    cold: bool = False  # it waited for a load


class Outcome(Struct, frozen=True, kw_only=True):
    seed: int
    virtual_s: float
    answers: tuple[Answer, ...]
    loads: tuple[tuple[str, str], ...]  # (neuron, model), as they were begun on each neuron
    swaps: tuple[SwapRecord, ...]  # as the gateways saw them end
    refusals: dict[str, int]  # by neurons, of requests
    cut: int  # answers that a fault or an operator ended
    turns_s: dict[str, float]  # model → the longest that it was waited for with no replica
    work: dict[str, float]  # tokens of all neurons: made, prompted, and reused of those

    @property
    def outcomes(self) -> dict[str, int]:
        return dict(Counter(answer.outcome for answer in self.answers))

    def waits_s(self, model: str) -> list[float]:
        """Of the served requests for a model, ascending: from asking to the last token."""
        return sorted(a.seconds for a in self.answers if a.model == model and a.outcome == "served")


def simulate(scenario: Scenario, seed: int) -> Outcome:
    """Play it.

    Raises:
        Violation, Stuck: an invariant does not hold; nothing moves any more. With the seed as a note.
    """
    dice, jitter = random.Random(f"world {seed}"), random.getstate()
    random.seed(seed)  # Retry-After is drawn by the errors themselves
    try:
        return clock.run(_World(scenario, seed, dice).play(), seed=seed, limit_s=scenario.limit_s)
    except BaseExceptionGroup as group:
        error = _first(group)
        error.add_note(f"seed {seed}")
        raise error from None
    finally:
        random.setstate(jitter)


def _first(error: BaseException) -> BaseException:
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


class _World:
    def __init__(self, scenario: Scenario, seed: int, dice: random.Random) -> None:
        self._scenario = scenario
        self._seed = seed
        self._dice = dice
        self.neurons: dict[str, SimNeuron] = {}
        self.gateways: dict[str, SimGateway] = {}
        self._processes: dict[str, asyncio.Task[None]] = {}
        self._dead: list[SimGateway] = []
        self._turns = invariants.Turns()
        self._is_pinned = any(fault.kind == "pin" for fault in scenario.faults) or any(
            profile.pinned_on for profile in scenario.profiles.values()
        )
        parted = any(fault.kind in {"partition", "clog"} for fault in scenario.faults)
        self._late_s = invariants.LATE_S + (invariants.PARTED_S if parted else 0.0)
        self._answers: list[Answer] = []

    async def play(self) -> Outcome:
        async with asyncio.TaskGroup() as self._tasks:
            for name, devices in self._scenario.neurons.items():
                neuron = SimNeuron(
                    name, devices, self._scenario.models, self._tasks, self._changed, self._scenario.guard_s
                )
                self.neurons[name] = neuron
                neuron.start()
            for name in self._scenario.gateways:
                self._open(name)
            try:
                async with asyncio.timeout(self._scenario.until_s), asyncio.TaskGroup() as players:
                    players.create_task(self._trouble(), name="trouble")
                    for client in self._scenario.clients:
                        players.create_task(self._play(client), name=client.name)
            except TimeoutError:
                await asyncio.sleep(0)  # those who went home give back what they held
            self._rest()
            self._look_at_turns(asyncio.get_running_loop().time())
            for process in self._processes.values():
                process.cancel()
            for neuron in self.neurons.values():
                neuron.crash()
        return self._outcome()

    def _open(self, name: str) -> None:
        scenario = self._scenario
        gateway = SimGateway(
            name,
            [self.neurons[neuron] for neuron in scenario.sees.get(name, tuple(self.neurons))],
            scenario.profiles,
            scenario.gateways[name],
            self._dice,
            scenario.rules,
        )
        self.gateways[name] = gateway
        self._processes[name] = self._tasks.create_task(gateway.run(), name=name)

    # ---------------------------------------------------------------- checking

    def _changed(self, neuron: SimNeuron, row: Row) -> None:
        invariants.check_change(neuron, row, self.gateways.values())
        for gateway in self.gateways.values():
            invariants.check_books(gateway)
            if neuron.name in gateway.links:
                invariants.check_survey(gateway, neuron.name)
        self._look_at_turns(neuron.now)

    def _look_at_turns(self, now: float) -> None:
        self._turns.look(now, self.neurons.values(), self.gateways.values())

    def _rest(self) -> None:
        for gateway in (*self.gateways.values(), *self._dead):
            invariants.check_rest(gateway)

    async def _converge(self) -> None:
        told = ""
        for _ in range(int(invariants.CONVERGE_S * 4)):
            told = invariants.apart(self.gateways.values(), self.neurons)
            if not told:
                return
            await asyncio.sleep(0.25)
        raise invariants.Violation(f"not converged {invariants.CONVERGE_S:g} s after the last fault: {told}")

    # ---------------------------------------------------------------- faults

    async def _trouble(self) -> None:
        async with asyncio.TaskGroup() as faults:
            for fault in self._scenario.faults:
                faults.create_task(befall(fault, self), name=f"{fault.kind} at {fault.at_s:g} s")
        await self._converge()

    def replace(self, gateway: SimGateway) -> None:
        gateway.die()
        self._processes[gateway.name].cancel()
        self._dead.append(gateway)
        self._open(gateway.name)

    # ---------------------------------------------------------------- clients

    async def _play(self, client: Client) -> None:
        for number, ask in enumerate(client.asks):
            await asyncio.sleep(ask.after_s)
            began, tries = asyncio.get_running_loop().time(), 0
            while True:
                tries += 1
                outcome, again_s, lease = await self._ask(client, ask, f"{client.name}-{number}-{tries}")
                if again_s is None or tries > client.patience:
                    break
                await asyncio.sleep(again_s)
            self._answers.append(
                Answer(
                    client=client.name,
                    gateway=ask.gateway or client.gateway,
                    model=ask.model,
                    asked_at=began,
                    seconds=asyncio.get_running_loop().time() - began,
                    outcome=outcome,
                    tries=tries,
                    waited_s=lease.waited_s if lease is not None else 0.0,
                    cold=lease is not None and lease.cold,
                )
            )

    async def _ask(self, client: Client, ask: Ask, request_id: str) -> tuple[str, float | None, Lease | None]:
        """One try: how it ended, when to come again, if at all, and the lease of one that was served."""
        now = asyncio.get_running_loop().time()
        gateway = self.gateways[ask.gateway or client.gateway]
        leaves_at = None if ask.leaves_after_s is None else now + ask.leaves_after_s
        want = Want(
            model=ask.model,
            request_id=request_id,
            caller=client.caller or client.name,
            session=client.caller or client.name,
            tokens=ask.tokens,
            streaming=True,
            arrived=now,
            hold_s=client.hold_s,
            priority=ask.priority,
        )
        connection = Connection(gateway.callers, leaves_at)
        try:
            async with connection:
                lease = await gateway.serve(want, ask.tokens, ask.prompt_tokens)
        except CortexError as error:
            invariants.check_held(want, asyncio.get_running_loop().time(), error.kind, self._late_s)
            if error.kind == "model_cannot_fit" and not self._is_pinned:
                need_mb = self._scenario.models[ask.model].need_mb
                invariants.check_cannot_fit(self._scenario.profiles[ask.model], need_mb, self.neurons.values())
            return error.kind, error.retry_after_s if error.rule.retryable else None, None
        except Broken as broken:
            if connection.was_severed:
                return ("died", AGAIN_S, None) if gateway.dead else ("left", None, None)
            return "cut" if broken.begun else "broken", None, None
        except Refused as refused:
            return refused.refusal.code, None, None
        return "served", None, lease

    def _outcome(self) -> Outcome:
        gateways = (*self.gateways.values(), *self._dead)
        return Outcome(
            seed=self._seed,
            virtual_s=asyncio.get_running_loop().time(),
            answers=tuple(self._answers),
            loads=tuple((neuron.name, model) for neuron in self.neurons.values() for model in neuron.loads),
            swaps=tuple(swap for gateway in gateways for swap in gateway.swaps),
            refusals=dict(sum((gateway.refusals for gateway in gateways), Counter())),
            cut=sum(neuron.cut for neuron in self.neurons.values()),
            turns_s=self._turns.longest_s,
            work=dict(sum((neuron.work for neuron in self.neurons.values()), Counter())),
        )

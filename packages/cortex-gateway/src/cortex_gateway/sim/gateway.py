"""One simulated gateway: the production dispatcher, links to the neurons, and the relay's loop around a lease."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterable, Mapping

from msgspec import structs

from cortex_core.errors import CortexError
from cortex_core.fleet import Profile
from cortex_core.neuron_api import DemandRequest, LoadRequest, Operation, UnloadRequest
from cortex_gateway.dispatch.commands import Refused, Unreachable
from cortex_gateway.dispatch.dispatcher import Dispatcher, Lease, Rules, SwapRecord, Want
from cortex_gateway.policy.faults import decide_again
from cortex_gateway.policy.picture import Key
from cortex_gateway.policy.transitions import empty_fleet
from cortex_gateway.sim.connection import Broken, Connection
from cortex_gateway.sim.link import Link
from cortex_gateway.sim.neuron import Head, SimNeuron

MOST_UNREACHABLE = 2  # connections that could not be made, for one request
UNREACHABLE_S = 1.0
DEADLINE_LEAST_S = 0.001  # 0 would be none
AGAIN_S, AGAIN_MAX_S = 0.05, 1.0  # between decisions, when a neuron refuses again and again


class SimGateway:
    """Implements `Commands` for its own dispatcher.

    Args:
        distance_s: from each neuron, one way.
    """

    def __init__(
        self,
        name: str,
        neurons: Iterable[SimNeuron],
        profiles: Mapping[str, Profile],
        distance_s: float,
        dice: random.Random,
        rules: Rules = Rules(),  # noqa: B008 - a frozen value
    ) -> None:
        self.name = name
        self.held: Counter[Key] = Counter()  # leases, counted apart from the dispatcher's own books
        self.waiting: dict[str, Want] = {}  # requests without a lease
        self.swaps: list[SwapRecord] = []
        self.refusals: Counter[str] = Counter()  # of requests, by code
        self.dead = False
        self.callers: dict[Connection, None] = {}
        neurons = tuple(neurons)
        self.dispatcher = Dispatcher(
            empty_fleet([(neuron.name, "") for neuron in neurons], profiles),
            self,
            structs.replace(rules, gateway=name),
            clock=asyncio.get_running_loop().time,
            on_swap=self.swaps.append,
        )
        self.links = {n.name: Link(n, distance_s, dice, self.dispatcher.observe) for n in neurons}

    def die(self) -> None:
        """Its clients' connections break; whoever owns `run` cancels it."""
        self.dead = True
        for caller in tuple(self.callers):
            caller.sever()

    async def run(self) -> None:
        """Until cancelled: the end of its process. Its loads go on at the neurons."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.dispatcher.run(), name=f"{self.name} dispatches")
                for link in self.links.values():
                    tasks.create_task(link.run(), name=f"{self.name} listens to {link.neuron.name}")
        finally:
            for link in self.links.values():
                link.close()

    async def load(self, neuron: str, request: LoadRequest) -> Operation:
        link = self.links[neuron]
        return await link.call(lambda: link.neuron.load(request))

    async def unload(self, neuron: str, request: UnloadRequest) -> Operation:
        link = self.links[neuron]
        return await link.call(lambda: link.neuron.unload(request))

    async def demand(self, neuron: str, request: DemandRequest) -> None:
        link = self.links[neuron]
        await link.tell(lambda: link.neuron.demand(request))

    async def serve(self, want: Want, tokens: int, prompt_tokens: int = 0) -> Lease:
        """A request from its lease to its last token; refused and not executed, it asks again under its old age.

        Returns:
            The lease that it had, which has ended.

        Raises:
            CortexError: it cannot be served, or not yet.
            Refused: finally.
            Broken: in the middle; it may have been executed.
        """
        try:
            return await self._serve(want, tokens, prompt_tokens)
        finally:
            self.waiting.pop(want.request_id, None)

    async def _serve(self, want: Want, tokens: int, prompt_tokens: int) -> Lease:
        unreachable = refused = 0
        while True:
            self.waiting[want.request_id] = want
            with await self.dispatcher.lease(want) as lease:
                del self.waiting[want.request_id]
                key = lease.neuron.name, lease.replica.id
                self.held[key] += 1
                try:
                    await self._attempt(lease, tokens, prompt_tokens)
                    return lease
                except Refused as refusal:
                    error = refusal
                except Unreachable:
                    error = None
                finally:
                    self.held[key] -= 1
            if error is None:
                self.refusals["unreachable"] += 1
                self.dispatcher.pause(key, UNREACHABLE_S)
                unreachable += 1
                if unreachable == MOST_UNREACHABLE:
                    raise CortexError("upstream_failed", "no connection")
                continue
            self.refusals[error.refusal.code] += 1
            if not decide_again(error.refusal):
                raise error
            self.dispatcher.reject(lease, error.refusal)
            if refused:
                await asyncio.sleep(min(AGAIN_S * 2**refused, AGAIN_MAX_S))
            refused += 1

    async def _attempt(self, lease: Lease, tokens: int, prompt_tokens: int) -> None:
        want = lease.want
        head = Head(
            request_id=want.request_id,
            gateway=self.name,
            instance_id=lease.neuron.instance_id,
            replica=lease.replica.id,
            deadline_s=max(DEADLINE_LEAST_S, want.arrived + want.hold_s - self.dispatcher.clock()),
            prefix=want.session,
            prompt_tokens=prompt_tokens,
        )
        try:
            await self.links[lease.neuron.name].request(head, tokens)
        except (Unreachable, Broken):
            lease.failed()
            raise
        lease.succeeded(tokens=tokens)

"""What an operator may have done: the same swaps that requests cause, pins, and cordons.

The dispatcher plans and carries out; the neuron has the last word, and its refusal is told as it is.
"""

from __future__ import annotations

from msgspec import structs

from cortex_core.errors import CortexError
from cortex_core.fleet import Neuron, Replica
from cortex_core.gateway_api import (
    CordonCommand,
    Done,
    ExplainRequest,
    Explanation,
    LoadCommand,
    PinCommand,
    UnloadCommand,
)
from cortex_core.neuron_api import CordonRequest, PinRequest, UnloadRequest
from cortex_gateway.dispatch.commands import OperatorCommands, Refused, Unreachable
from cortex_gateway.dispatch.dispatcher import Dispatcher
from cortex_gateway.policy.aliases import Names, resolve
from cortex_gateway.policy.explain import explain
from cortex_gateway.policy.placement import candidates
from cortex_gateway.policy.refuse import cannot_fit
from cortex_gateway.policy.schedule import Swap


class Steering:
    """Every method raises CortexError with the reason when it is not done."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        commands: OperatorCommands,
        names: Names = Names(),  # noqa: B008 - immutable
    ) -> None:
        self._dispatcher = dispatcher
        self._commands = commands
        self._names = names

    def explain(self, asked: ExplainRequest) -> Explanation:
        return explain(self._dispatcher.picture(), self._meant(asked.model), asked.session)

    async def load(self, command: LoadCommand) -> Done:
        """A swap, planned like one for a waiter: nothing busy has to leave for it before its turn is over."""
        began = self._dispatcher.clock()
        command = structs.replace(command, model=self._meant(command.model))
        picture = self._dispatcher.picture()
        profile = picture.fleet.profiles.get(command.model)
        if profile is None:
            raise CortexError("model_not_found", f"{command.model} is not in the catalogue", param="model")
        self._check_neuron(command.neuron)
        there = [n.name for n, _ in picture.ready(command.model) if command.neuron in {None, n.name}]
        if there:
            return Done(model=command.model, neurons=tuple(there))
        considered = tuple(c for c in candidates(picture, profile) if command.neuron in {None, c.neuron})
        if not considered or not considered[0].now:
            if any(candidate.possible for candidate in considered):
                reasons = "; ".join(f"{c.neuron}: {c.reason}" for c in considered)
                raise CortexError("no_capacity", f"{command.model} cannot be loaded now: {reasons}")
            raise cannot_fit(command.model, considered).error()
        record = await self._dispatcher.spawn(
            Swap(model=command.model, candidate=considered[0], reason="operator", considered=considered), picture
        )
        if record.error:
            kind = "model_cannot_fit" if record.error == "model_cannot_fit" else "load_failed"
            raise CortexError(kind, f"{record.neuron} did not load {command.model}: {record.message or record.error}")
        seconds = self._dispatcher.clock() - began
        return Done(model=command.model, neurons=(record.neuron,), seconds=seconds, let_go=record.victims)

    async def unload(self, command: UnloadCommand) -> Done:
        began = self._dispatcher.clock()
        command = structs.replace(command, model=self._meant(command.model))
        touched = []
        for neuron, replica in self._replicas(command.model, command.neuron):
            request = UnloadRequest(
                replica=replica.id,
                version=replica.version,
                mode="cut" if command.now else "drain",
                drain_s=command.drain_s,
            )
            try:
                await self._commands.unload(neuron.name, request)
            except (Refused, Unreachable) as error:
                raise _told(neuron.name, error) from error
            touched.append(neuron.name)
        seconds = self._dispatcher.clock() - began
        return Done(model=command.model, neurons=tuple(touched), seconds=seconds, let_go=(command.model,))

    async def pin(self, command: PinCommand) -> Done:
        command = structs.replace(command, model=self._meant(command.model))
        if command.neuron is None:
            names = [neuron.name for neuron, _ in self._replicas(command.model, None)]
        else:
            self._check_neuron(command.neuron)
            names = [command.neuron]
        if command.model not in self._dispatcher.fleet.profiles:
            raise CortexError("model_not_found", f"{command.model} is not in the catalogue", param="model")
        for name in names:
            try:
                await self._commands.pin(name, PinRequest(model=command.model, pinned=command.pinned))
            except (Refused, Unreachable) as error:
                raise _told(name, error) from error
        return Done(model=command.model, neurons=tuple(names))

    async def cordon(self, command: CordonCommand) -> Done:
        self._check_neuron(command.neuron)
        try:
            await self._commands.cordon(command.neuron, CordonRequest(reason=command.reason), command.cordoned)
        except (Refused, Unreachable) as error:
            raise _told(command.neuron, error) from error
        return Done(neurons=(command.neuron,))

    def _meant(self, asked: str) -> str:
        """The model that a name means for requests, an operator means by it too."""
        found = resolve(self._names, asked, self._dispatcher.fleet.profiles)
        return asked if found is None else found[0]

    def _replicas(self, model: str, name: str | None) -> list[tuple[Neuron, Replica]]:
        self._check_neuron(name)
        found = [(n, r) for n, r in self._dispatcher.picture().replicas(model) if name in {None, n.name}]
        if not found:
            where = f" on {name}" if name else ""
            raise CortexError("model_not_found", f"{model} is not loaded{where}", param="model")
        return found

    def _check_neuron(self, name: str | None) -> None:
        if name is not None and name not in self._dispatcher.fleet.neurons:
            known = ", ".join(self._dispatcher.fleet.neurons)
            raise CortexError("neuron_not_found", f"there is no neuron {name}: {known}", param="neuron")


def _told(neuron: str, error: Refused | Unreachable) -> CortexError:
    if isinstance(error, Unreachable):
        return CortexError("upstream_failed", f"{neuron} does not answer: {error}")
    refusal = error.refusal
    kind = "refused" if refusal.code in {"busy", "outrun", "drain_timeout", "cordoned"} else "bad_request"
    return CortexError(kind, f"{neuron}: {refusal.message}", details={"code": refusal.code})

"""Swaps under way: each a task of the dispatcher, decided on a picture, ended by what the neuron answers."""

from __future__ import annotations

import uuid
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct

from cortex_core.fleet import Replica
from cortex_core.neuron_api import LoadRequest, Refusal, UnloadRequest, Victim
from cortex_gateway.dispatch.commands import Commands, Refused, Unreachable
from cortex_gateway.policy.picture import Intent, Key, Picture
from cortex_gateway.policy.placement import Candidate, candidates
from cortex_gateway.policy.refuse import Refuse
from cortex_gateway.policy.schedule import Swap, intend
from cortex_gateway.policy.survey import DRAIN
from cortex_gateway.policy.transitions import Answered
from cortex_gateway.policy.upkeep import LetGo

if TYPE_CHECKING:
    from cortex_gateway.dispatch.dispatcher import Dispatcher

UNREACHABLE_S = 1.0
FINAL = {"model_cannot_fit": "model_cannot_fit", "bad_request": "model_unusable"}  # a neuron's code → a client's error
DRAIN_S = 120.0  # what a busy victim's requests are given to end by themselves


class SwapRecord(Struct, frozen=True, kw_only=True):
    """A swap that ended, for the metrics."""

    model: str
    neuron: str
    seconds: float
    reason: str = "waiters"
    victims: tuple[str, ...] = ()  # models
    loaded: bool = True  # False: something was only let go
    error: str = ""  # a refusal's code; empty: it went well
    message: str = ""  # and its words


def _victim(replica: Replica, candidate: Candidate) -> Victim:
    mode: Literal["idle", "drain"] = "drain" if candidate.tier == DRAIN else "idle"
    return Victim(replica=replica.id, version=replica.version, mode=mode, drain_s=DRAIN_S)


class Swaps:
    """What was decided and has not ended, and what neurons taught by refusing."""

    def __init__(self, dispatcher: Dispatcher, commands: Commands) -> None:
        self._dispatcher = dispatcher
        self._commands = commands
        self.intents: dict[str, Intent] = {}  # by operation id; decisions read both, and never write them
        self.needs_mb: dict[str, int] = {}
        self._cannot_fit: dict[Key, str] = {}  # (neuron, model) → the instance that said so

    def begin(self, action: Swap | LetGo, picture: Picture) -> Coroutine[None, None, SwapRecord]:
        """Register what was decided, at once, and return what does it."""
        if isinstance(action, LetGo):
            return self._let_go(action, picture.now)
        intent = intend(picture, action, f"op-{uuid.uuid4().hex[:16]}")
        self.intents[intent.operation_id] = intent
        self._dispatcher.moved(intent.neuron)
        return self._swap(intent, action)

    async def _swap(self, intent: Intent, swap: Swap) -> SwapRecord:
        neuron, candidate = self._dispatcher.fleet.neurons[intent.neuron], swap.candidate
        request = LoadRequest(
            operation_id=intent.operation_id,
            instance_id=neuron.instance_id,
            model=swap.model,
            profile=self._dispatcher.fleet.profiles.get(swap.model),
            placement=candidate.shares,
            evict=tuple(_victim(replica, candidate) for replica in candidate.victims),
        )
        error = message = ""
        try:
            operation = await self._commands.load(intent.neuron, request)
        except Refused as refused:
            error, message = refused.refusal.code, refused.refusal.message
            self._learn(intent, neuron.instance_id, refused.refusal)
        except Unreachable as gone:
            error, message = "unreachable", str(gone)
            self._dispatcher.pause((intent.neuron, intent.model), UNREACHABLE_S)
        else:
            self._dispatcher.forgive((intent.neuron, intent.model))
            if operation.replica is not None:
                self._believe(intent.neuron, neuron.instance_id, operation.replica)
        finally:
            del self.intents[intent.operation_id]
            self._dispatcher.moved(intent.neuron)
        return self._ended(
            SwapRecord(
                model=intent.model,
                neuron=intent.neuron,
                seconds=self._dispatcher.clock() - intent.since,
                reason=swap.reason,
                victims=tuple(replica.model for replica in candidate.victims),
                error=error,
                message=message,
            )
        )

    async def _let_go(self, action: LetGo, since: float) -> SwapRecord:
        neuron, replica = self._dispatcher.fleet.neurons[action.neuron], action.replica
        error = message = ""
        try:
            await self._commands.unload(action.neuron, UnloadRequest(replica=replica.id, version=replica.version))
        except Refused as refused:
            error, message = refused.refusal.code, refused.refusal.message
            self._believe(action.neuron, neuron.instance_id, *refused.refusal.replicas)
        except Unreachable as gone:
            error, message = "unreachable", str(gone)
        return self._ended(
            SwapRecord(
                model=replica.model,
                neuron=action.neuron,
                seconds=self._dispatcher.clock() - since,
                reason=action.reason,
                victims=(replica.model,),
                loaded=False,
                error=error,
                message=message,
            )
        )

    def _ended(self, record: SwapRecord) -> SwapRecord:
        self._dispatcher.swapped(record)
        return record

    def _believe(self, neuron: str, instance_id: str, *replicas: Replica) -> None:
        self._dispatcher.observe(Answered(neuron, instance_id, replicas))

    def _learn(self, intent: Intent, instance_id: str, refusal: Refusal) -> None:
        """The neuron's truth differs: take it over, and do not ask the same again at once."""
        pause_s = refusal.retry_in_s if refusal.code != "busy" else 0.0  # gauges tell sooner when it is so no more
        self._dispatcher.pause((intent.neuron, intent.model), pause_s)
        if refusal.need_mb:
            self.needs_mb[intent.model] = max(refusal.need_mb, self.needs_mb.get(intent.model, 0))
        if refusal.code == "model_cannot_fit":
            self._cannot_fit[intent.neuron, intent.model] = instance_id
        if refusal.code in FINAL and not (refusal.code == "model_cannot_fit" and self._has_elsewhere(intent.model)):
            details: dict[str, Any] = {"need_mb": refusal.need_mb, "free_mb": refusal.free_mb, **refusal.details}
            told = Refuse(model=intent.model, kind=FINAL[refusal.code], message=refusal.message, details=details)
            self._dispatcher.refuse(told)
        self._dispatcher.observe(Answered(intent.neuron, instance_id, refusal.replicas, refusal.failure))

    def _has_elsewhere(self, model: str) -> bool:
        """Whether a neuron that has not said that the model cannot fit there may yet hold it."""
        picture = self._dispatcher.picture()
        profile = picture.fleet.profiles.get(model)
        considered = candidates(picture, profile) if profile else ()
        return any(
            c.possible and self._cannot_fit.get((c.neuron, model)) != picture.fleet.neurons[c.neuron].instance_id
            for c in considered
        )

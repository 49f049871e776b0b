"""What operators and catalogues say once and for all: pins, cordon, demand, and what is kept loaded."""

from __future__ import annotations

import logging

from cortex_core.fleet import Profile, State
from cortex_core.neuron_api import CordonRequest, DemandRequest, LoadRequest, PinRequest
from neuron.supervisor.operations import Running
from neuron.supervisor.parts import Parts
from neuron.supervisor.refusals import Refused
from neuron.supervisor.replicas import Replicas
from neuron.supervisor.supervisor import Supervisor

log = logging.getLogger(__name__)


class Standing:
    """Kept over restarts by `Learned`; acted on at every heartbeat."""

    def __init__(self, parts: Parts, replicas: Replicas, supervisor: Supervisor) -> None:
        self._operations = parts.operations
        self._owners = parts.owners
        self._learned = parts.learned
        self._hub = parts.hub
        self._replicas = replicas
        self._supervisor = supervisor
        self._preload = list(parts.config.engine.preload)
        self._complained: dict[str, str] = {}  # model → the last reason why it is not kept loaded

    def pin(self, request: PinRequest) -> Running:
        running, fresh = self._operations.begin(request.operation_id, "pin", request.model, request)
        if fresh:
            resident = next(iter(self._replicas.of(request.model)), None)
            self._learned.pin(resident.profile if resident else Profile(id=request.model), request.pinned)
            if resident is not None:
                self._replicas.publish(resident)
            self._hub.snapshot_due = True
            running.finish()
        return running

    def cordon(self, request: CordonRequest, cordoned: bool) -> Running:
        """No new leases and no new loads, or as before. Kept over restarts."""
        running, fresh = self._operations.begin(request.operation_id, "cordon", "", request, str(cordoned))
        if fresh:
            self._learned.cordon(cordoned, request.reason)
            self._hub.snapshot_due = True
            running.finish()
        return running

    def demand(self, request: DemandRequest) -> None:
        self._replicas.demand(request.gateway, dict(request.models))

    def problems(self) -> list[str]:
        """What is wanted here and not here, in words."""
        wanted = {profile.id: profile for profile in self._learned.pinned_profiles()}
        wanted |= {model: Profile(id=model) for model in self._preload if model not in wanted}
        found = []
        for model, profile in wanted.items():
            failure = self._learned.failure(model, profile.digest)
            why = failure.message if failure else self._complained.get(model, "")
            if why and not self._replicas.of(model):
                found.append(f"{model} is not kept loaded: {why}")
        return found

    def keep_loaded(self) -> None:
        """Load what is pinned and not there, and what is to be preloaded and was not yet. For every tick."""
        if self._owners.problem or self._replicas.closing or self._learned.cordoned:
            return
        pinned = {profile.id: profile for profile in self._learned.pinned_profiles()}
        wanted = pinned | {model: Profile(id=model) for model in self._preload if model not in pinned}
        for model, profile in wanted.items():
            here = self._replicas.of(model)
            if here and not (here[0].state is State.SLEEPING and model in pinned):
                self._complained.pop(model, None)
                if here[0].state is State.READY and model in self._preload:
                    self._preload.remove(model)
                continue
            failure = self._learned.failure(model, profile.digest)
            if failure is not None and failure.retry_in_s > 0:
                continue
            try:
                self._supervisor.load(LoadRequest(model=model, profile=profile))
            except Refused as refused:
                if self._complained.get(model) != str(refused):
                    self._complained[model] = str(refused)
                    log.warning("%s is not kept loaded: %s", model, refused)

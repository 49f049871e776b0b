"""What the gateway says of itself and of the fleet: models, health, the whole picture. Starlette routes these."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cortex_core.errors import CortexError, Dialect, Rendered, render
from cortex_core.fleet import Neuron
from cortex_core.gateway_api import (
    FLEET_PATH,
    REQUEST_ID_HEADER,
    DeviceView,
    FleetView,
    GatewayHealth,
    Model,
    ModelList,
    NeuronCount,
    NeuronView,
    Waiting,
)
from cortex_gateway.api import steer
from cortex_gateway.api.errors import Ids, dialect_of, rendered
from cortex_gateway.dispatch.dispatcher import Dispatcher
from cortex_gateway.dispatch.steering import Steering
from cortex_gateway.policy import listing
from cortex_gateway.policy.aliases import Names, adapters, resolve
from cortex_gateway.policy.catalogue import Merged


class About:
    """Reads the dispatcher's picture; changes nothing."""

    def __init__(self, dispatcher: Dispatcher, steering: Steering, names: Names, *, version: str, ids: Ids) -> None:
        self._dispatcher = dispatcher
        self._steering = steering
        self._names = names
        self._version = version
        self._ids = ids
        self._began = time.monotonic()
        self._merged = Merged()

    def app(self) -> Starlette:
        models = [("/v1/models", self.models), ("/models", self.models)]
        return Starlette(
            routes=[
                Route("/", self.root, methods=["GET", "HEAD"]),
                Route("/health", self.health, methods=["GET", "HEAD"]),
                *(Route(path, handler, methods=["GET", "HEAD"]) for path, handler in models),
                *(Route(path + "/{model:path}", self.model, methods=["GET", "HEAD"]) for path, _ in models),
                Route("/props", self.props, methods=["GET", "HEAD"]),
                Route("/v1/responses/compact", self.nowhere, methods=["POST"]),
                Route("/v1/responses/{rest:path}", self.not_stored, methods=["GET", "POST", "DELETE"]),
                Route(FLEET_PATH, self.fleet, methods=["GET", "HEAD"]),
                *steer.routes(self._steering, self._ids),
            ],
            exception_handlers={HTTPException: self._not_routed, CortexError: self._refused},
        )

    async def root(self, _: Request) -> Response:
        """Name and version. Claude Code asks for it first."""
        return self._json({"name": "cortex", "version": self._version})

    async def health(self, _: Request) -> Response:
        """200 while at least one neuron answers: requests can be served, or held until they can."""
        neurons = self._dispatcher.fleet.neurons.values()
        healthy = sum(neuron.up for neuron in neurons)
        problems = tuple(f"{n.name}: {n.problem or 'not heard of yet'}" for n in neurons if not n.up)
        health = GatewayHealth(
            status="ok" if not problems else "impaired" if healthy else "degraded",
            version=self._version,
            neurons=NeuronCount(healthy, len(neurons)),
            problems=problems,
        )
        return self._json(health, 200 if healthy else 503)

    async def models(self, request: Request) -> Response:
        """The models that can be served, loaded or not. Anthropic's shape for who sends `anthropic-version`."""
        fleet = self._dispatcher.fleet
        every = listing.with_aliases(self._merged.models(fleet), self._names, adapters(fleet.profiles))
        if _is_anthropics(request):
            asked = request.query_params
            page = {key: asked.get(key, "") for key in ("limit", "after_id", "before_id")}
            return self._json(listing.anthropic_list(every, **page))
        return self._json(ModelList(data=every))

    async def model(self, request: Request) -> Response:
        """One model by any of its names."""
        found = self._model(request.path_params["model"], request)
        return self._json(listing.anthropic(found) if _is_anthropics(request) else found)

    async def props(self, request: Request) -> Response:
        """llama.cpp's. Without a model: of the only one there is, else of a router."""
        profiles = self._dispatcher.fleet.profiles
        name = request.query_params.get("model") or (next(iter(profiles)) if len(profiles) == 1 else "")
        if not name:
            return self._json(listing.router_props(self._version))
        return self._json(listing.props(self._model(name, request), self._version))

    async def not_stored(self, _: Request) -> Response:
        """404: responses are not stored here."""
        raise CortexError("not_found", "responses are not stored here")

    async def nowhere(self, _: Request) -> Response:
        """501: responses are not compacted here."""
        raise CortexError("unsupported", "responses are not compacted here: send the whole conversation in `input`")

    def _model(self, name: str, request: Request) -> Model:
        """The entry of a model by any of its names."""
        fleet = self._dispatcher.fleet
        meant = resolve(self._names, name, fleet.profiles)
        found = self._merged.model(fleet, meant[0]) if meant is not None else None
        if found is None:
            message = f"model: {name}" if _is_anthropics(request) else f"the model `{name}` does not exist"
            raise CortexError("model_not_found", message, param="model")
        return listing.alias(found, name)

    async def fleet(self, _: Request) -> Response:
        """The whole picture: neurons, devices, replicas, models, what waits."""
        fleet = self._dispatcher.fleet
        return self._json(
            FleetView(
                version=self._version,
                gateway=self._ids.gateway,
                uptime_s=time.monotonic() - self._began,
                neurons=tuple(_neuron(neuron) for neuron in fleet.neurons.values()),
                models=self._merged.models(fleet),
                waiting={model: Waiting(*waiting) for model, waiting in self._dispatcher.waiting().items()},
            )
        )

    def _json(self, value: Any, status: int = 200) -> Response:
        request_id = self._ids.next()
        headers = {REQUEST_ID_HEADER: request_id, "request-id": request_id}
        return Response(msgspec.json.encode(value), status, headers, "application/json")

    async def _not_routed(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        allowed = ", ".join(sorted((error.headers or {}).get("Allow", "").split(", ")))
        message = (
            f"{request.method} is not allowed here: {allowed}"
            if error.status_code == 405
            else f"there is nothing at {request.url.path}"
        )
        answer = _answer(rendered(error.status_code, message, self._ids, request.scope))
        if allowed:
            answer.headers["allow"] = allowed
        return answer

    async def _refused(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, CortexError)
        return _answer(render(error, dialect_of(request.scope), self._ids.next()))


def _is_anthropics(request: Request) -> bool:
    return dialect_of(request.scope) is Dialect.ANTHROPIC_MESSAGES


def _answer(error: Rendered) -> Response:
    headers = {name.decode(): value.decode() for name, value in error.headers}
    return Response(error.body, error.status, headers)


def _neuron(neuron: Neuron) -> NeuronView:
    return NeuronView(
        name=neuron.name,
        endpoint=neuron.endpoint,
        up=neuron.up,
        problem=neuron.problem,
        instance_id=neuron.instance_id,
        build=neuron.build,
        cordoned=neuron.cordoned,
        simulated=neuron.simulated,
        devices=tuple(
            DeviceView(
                id=device.id,
                name=device.name,
                kind=device.kind,
                memory_mb=device.memory_mb,
                held_mb=sum(replica.memory_on(device.id) for replica in neuron.replicas),
                others_mb=device.used_by_others_mb,
                free_mb=neuron.free_mb(device),
                utilization=device.utilization,
                temperature_c=device.temperature_c,
                power_w=device.power_w,
            )
            for device in neuron.devices
        ),
        replicas=neuron.replicas,
        failures=neuron.failures,
    )

"""A gateway process between clients and a neuron that live here: each side of it can be seen, timed and broken."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cortex_core.fleet import Profile
from tests.support.daemons import GatewayProcess
from tests.support.faults import FaultyWire
from tests.support.host import Host, fleet
from tests.support.scripted import ScriptedNeuron
from tests.support.until import eventually
from tests.support.wire import Raw, raw, request

CHAT = "/v1/chat/completions"
NEAR = 2  # sockets: one that is just being closed, one to the neuron that is kept
MODELS: list[dict[str, Any]] = [
    {"id": "tiny", "vram_mb": 1000, "max_in_flight": 20_000},
    {"id": "narrow", "vram_mb": 1000, "max_in_flight": 1, "max_queue_depth": 0},
    {"id": "cold", "vram_mb": 1000},
]


@dataclass
class Stage:
    host: Host
    gateway: GatewayProcess
    neuron: ScriptedNeuron
    sockets: int = 0  # that the gateway has open when nobody asks, give or take NEAR

    @property
    def address(self) -> str:
        return f"{self.gateway.host}:{self.gateway.port}"

    @property
    def held_up(self) -> bool:
        """Whether the neuron's writes wait for the gateway to read."""
        return any(connection.can_write is not None for connection in self.neuron._server._connections)

    def client(self, **options: Any) -> AbstractAsyncContextManager[Raw]:
        """A raw connection to the gateway."""
        return raw(self.address, **options)

    def descriptors(self, kind: str = "") -> int:
        """How many the gateway has open, of all kinds or of one."""
        count = 0
        for path in Path(f"/proc/{self.gateway.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                count += str(path.readlink()).startswith(kind)
        return count

    @property
    def is_empty(self) -> bool:
        """Whether the gateway has no sockets but its own."""
        return self.descriptors("socket") <= self.sockets + NEAR

    @asynccontextmanager
    async def asking(self, model: str = "tiny", **fields: Any) -> AsyncIterator[Raw]:
        """A connection over which a question was sent."""
        async with self.client() as client:
            await client.send(question(model, **fields))
            yield client


def question(model: str = "tiny", content: str = "Who?", **fields: Any) -> bytes:
    """A request for a chat completion."""
    body = {"model": model, "messages": [{"role": "user", "content": content}], "stream": True} | fields
    return request("POST", CHAT, json.dumps(body).encode())


@dataclass
class _At:
    name: str
    url: str


@asynccontextmanager
async def staged(
    *,
    models: Sequence[Mapping[str, Any]] = MODELS,
    tables: Mapping[str, Mapping[str, Any]] | None = None,
    wire: FaultyWire | None = None,
    **options: Any,
) -> AsyncIterator[Stage]:
    """A stage on which `tiny` and `narrow` are ready. `wire`: between gateway and neuron, its target still open."""
    async with ScriptedNeuron("beast") as neuron:
        for model in ("tiny", "narrow"):
            entry = next((m for m in models if m["id"] == model), None)
            if entry is not None:
                profile = Profile(id=model, vram_mb=1000)
                room = {key: entry[key] for key in ("max_in_flight", "max_queue_depth") if key in entry}
                neuron.ready(model, profile=profile, **room)
        with fleet() as host:
            endpoint = neuron.endpoint
            if wire is not None:
                wire.target = neuron.endpoint.removeprefix("http://")
                endpoint = f"http://{wire.address}"
            ours = {"gateway": {"hosts": ["test", "a"], **(tables or {}).get("gateway", {})}}
            gateway = host.gateway(
                [_At("beast", endpoint)], models, tables={**(tables or {}), **ours}, follows=0, **options
            )
            await eventually(lambda: gateway.fleet()["neurons"][0]["up"], what="the neuron followed")
            stage = Stage(host, gateway, neuron)
            stage.sockets = stage.descriptors("socket")
            yield stage

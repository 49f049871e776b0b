"""The whole gateway in this process, on free ports, and a client that asks it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import msgspec
from msgspec import Struct, structs

from cortex_core.config import Catalogue, CortexConfig
from cortex_core.config.cortex import CatalogueTable, FleetTable, Gateway, NeuronEntry, Tls
from cortex_core.fleet import Profile
from cortex_core.gateway_api import FleetView
from cortex_core.http import ASGIApp, BrokenResponse, Client, Response
from cortex_gateway.api.errors import Ids
from cortex_gateway.app import build
from cortex_gateway.dispatch.dispatcher import Dispatcher
from cortex_gateway.metrics.telemetry import Telemetry
from cortex_gateway.neurons import Neurons
from cortex_gateway.policy.transitions import empty_fleet
from cortex_gateway.relay.large import Large
from cortex_gateway.relay.relay import Relay
from cortex_gateway.serving.life import Life
from cortex_gateway.serving.server import serve
from tests.support.readers import messages, responses
from tests.support.scripted import ScriptedNeuron
from tests.support.until import until_async

CHAT = "/v1/chat/completions"
STRICT: Mapping[str, Callable[[bytes], object]] = {"/messages": messages.read, "/responses": responses.read}
"""Whatever a test looks for: a translated stream that ends cleanly is one that the strictest clients take."""
TINY, BIG = Profile(id="tiny", vram_mb=1000), Profile(id="big", vram_mb=4000)


@contextmanager
def without_neurons(*models: Profile) -> Iterator[ASGIApp]:
    """The app of a gateway by which nothing can be relayed, and which waits for nothing."""
    neurons = Neurons([], gateway="g", token="")
    dispatcher = Dispatcher(empty_fleet([], {model.id: model for model in models or (TINY,)}), neurons)
    config = Gateway(hold_s=0.0, hold_not_streaming_s=0.0)
    telemetry = Telemetry("1")
    relay = Relay(dispatcher, neurons, gateway="f", token="", on_end=telemetry.ended)
    with Large() as large:
        yield build(config, dispatcher, neurons, relay, telemetry, Ids("f"), large, version="1")


class Got(Struct, frozen=True, kw_only=True):
    """An answer. `whole`: it ended cleanly."""

    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool = True

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def error(self) -> Any:
        return self.json["error"]


class _Told(Life):
    def __init__(self, addresses: asyncio.Future[tuple[str, str]]) -> None:
        super().__init__()
        self._addresses = addresses

    def started(self, address: str, metrics: str) -> None:
        self._addresses.set_result((address, metrics))


class Running:
    """A gateway that serves."""

    def __init__(self, address: str, metrics: str, task: asyncio.Task[None]) -> None:
        self.address = address
        self.task = task
        self.client = Client(f"http://{address}", connect_timeout_s=10.0)  # on a busy machine
        self._metrics = Client(f"http://{metrics}", connect_timeout_s=10.0)

    async def ask(
        self, method: str, path: str, body: bytes | dict[str, Any] = b"", headers: dict[str, str] | None = None
    ) -> Got:
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        lines = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        return await _read(self.client, method, path, data, lines)

    async def chat(self, model: str = "tiny", *, path: str = CHAT, **fields: Any) -> Got:
        messages = [{"role": "user", "content": "Who are you?"}]
        return await self.ask("POST", path, {"model": model, "messages": messages} | fields)

    async def fleet(self) -> FleetView:
        got = await self.ask("GET", "/cortex/v1/fleet")
        return msgspec.json.decode(got.body, type=FleetView)

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that bear these labels; 0: there is none."""
        got = await _read(self._metrics, "GET", "/metrics", b"", [])
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        total = 0.0
        for line in got.body.decode().splitlines():
            sample, _, value = line.rpartition(" ")
            if sample.partition("{")[0] == name and all(label in sample for label in wanted):
                total += float(value)
        return total

    async def up(self, *neurons: str) -> None:
        """Until these are known to be up."""

        async def known() -> bool:
            view = await self.fleet()
            return set(neurons) <= {neuron.name for neuron in view.neurons if neuron.up}

        await until_async(known, what=f"{neurons} are up")

    async def close(self) -> None:
        await self.client.close()
        await self._metrics.close()


async def _read(client: Client, method: str, path: str, body: bytes, headers: list[tuple[bytes, bytes]]) -> Got:
    async with client.request(method, path, body=body, headers=headers) as response:
        got, whole = await drained(response)
        found = {name.decode(): value.decode() for name, value in response.headers}
        if whole and found.get("content-type", "").startswith("text/event-stream"):
            for surface, read in STRICT.items():
                if surface in path:
                    read(got)
        return Got(status=response.status, headers=found, body=got, whole=whole)


async def drained(response: Response) -> tuple[bytes, bool]:
    """The rest of an answer, and whether it ended cleanly."""
    pieces: list[bytes] = []
    try:
        while data := await response.read_some():
            pieces.append(data)
    except BrokenResponse:
        return b"".join(pieces), False
    return b"".join(pieces), True


@asynccontextmanager
async def gateway(
    neurons: Sequence[ScriptedNeuron],
    models: Sequence[Profile] | Catalogue,
    *,
    token: str = "",
    tls: Tls = Tls(),  # noqa: B008 - frozen
    catalogue_table: CatalogueTable = CatalogueTable(),  # noqa: B008 - frozen
    at: str = "",
    **settings: Any,
) -> AsyncIterator[Running]:
    """`models` served from `neurons`; ends with the block, whatever is under way. `at`: the neurons' address."""
    table = structs.replace(Gateway(listen="127.0.0.1:0", metrics_listen="127.0.0.1:0", drain_s=0.0), **settings)
    config = CortexConfig(
        gateway=table,
        tls=tls,
        catalogue=catalogue_table,
        fleet=FleetTable(token=token),
        neurons=tuple(NeuronEntry(name=neuron.name, endpoint=at or neuron.endpoint) for neuron in neurons),
    )
    catalogue = models if isinstance(models, Catalogue) else Catalogue(models=tuple(models))
    addresses: asyncio.Future[tuple[str, str]] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(serve(config, catalogue, _Told(addresses)))
        running = Running(*await addresses, task)
        try:
            yield running
        finally:
            await running.close()
            task.cancel()

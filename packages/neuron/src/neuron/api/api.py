"""The neuron's calls. Each handler reads its request, asks one of the others, and answers."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from cortex_core.http import EVENT_STREAM_HEADERS, EventStream, Request, Send, respond, respond_json
from cortex_core.neuron_api import (
    GATEWAY,
    CordonRequest,
    DemandRequest,
    LoadRequest,
    Operation,
    PinRequest,
    RefusalBody,
    SleepRequest,
    UnloadRequest,
)
from neuron.api.relay import Relay
from neuron.api.telemetry import Telemetry
from neuron.supervisor.events import Closed, Hub, TooSlow
from neuron.supervisor.operations import Operations, Running
from neuron.supervisor.refusals import Refused
from neuron.supervisor.replicas import Replicas
from neuron.supervisor.reports import Reports
from neuron.supervisor.standing import Standing
from neuron.supervisor.supervisor import Supervisor

COMMAND_LIMIT = 1 << 20  # bytes of a command's body
READERS_MOST = 64  # of events

T = TypeVar("T")


class Api:
    """One method for each call; `neuron.api.app` knows which path is whose."""

    def __init__(  # noqa: PLR0913 - each answers a part of the calls
        self,
        *,
        reports: Reports,
        supervisor: Supervisor,
        standing: Standing,
        replicas: Replicas,
        operations: Operations,
        hub: Hub,
        relay: Relay,
        telemetry: Telemetry,
    ) -> None:
        self._reports = reports
        self._supervisor = supervisor
        self._standing = standing
        self._replicas = replicas
        self._operations = operations
        self._hub = hub
        self._telemetry = telemetry
        self.relay = relay

    # Reports

    async def version(self, _request: Request, send: Send) -> None:
        """Build, API versions and features."""
        await respond_json(send, 200, self._reports.version())

    async def health(self, _request: Request, send: Send) -> None:
        """What is true of this neuron and of each replica, and what is wrong."""
        await respond_json(send, 200, self._reports.health())

    async def alive(self, _request: Request, send: Send) -> None:
        await respond_json(send, 200, self._reports.alive())

    async def discovery(self, _request: Request, send: Send) -> None:
        """The host, its devices, engines and checkpoints."""
        await respond_json(send, 200, self._reports.discovery())

    async def models(self, _request: Request, send: Send) -> None:
        """The report that gateways act on: replicas, what was learned, failures, demand."""
        await respond_json(send, 200, self._reports.report())

    async def served(self, _request: Request, send: Send) -> None:
        """`GET /v1/models`: what is loaded, for a client that talks to one neuron alone."""
        ready = [replica for replica in self._replicas.views() if replica.state.value == "ready"]
        names = sorted({name for replica in ready for name in (replica.model, *replica.adapters)})
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "cortex"} for name in names]
        await respond_json(send, 200, {"object": "list", "data": data})

    async def metrics(self, _request: Request, send: Send) -> None:
        """This neuron's and its engines' metrics."""
        await respond(send, 200, await self._telemetry.render(), (), b"text/plain; version=0.0.4; charset=utf-8")

    async def finished(self, request: Request, send: Send) -> None:
        """The last requests of a gateway that ended, with their exact usage."""
        query = request.query
        gateway = query.get("gateway") or request.header(GATEWAY) or ""
        after = query.get("after", "0")
        if not after.isdecimal():
            raise Refused("bad_request", "expected a number", field="after")
        await respond_json(send, 200, self._hub.finished_after(gateway, int(after)))

    async def events(self, request: Request, send: Send) -> None:
        """A snapshot, then what changes, and a heartbeat each second; server-sent events."""
        if self._hub.readers >= READERS_MOST:
            raise Refused("full", f"{READERS_MOST} readers follow already", retry_in_s=1.0)
        gateway = request.query.get("gateway") or request.header(GATEWAY) or ""
        reader = self._hub.subscribe(gateway, self._reports.report)
        try:
            async with EventStream(send) as stream:
                await stream.start(200)
                try:
                    while True:
                        events = await reader.next()
                        await stream.write(b"".join(b"event: %b\ndata: %b\n\n" % (n.encode(), d) for n, d in events))
                except Closed:
                    await stream.end()
                except TooSlow:
                    await stream.abort()
        finally:
            self._hub.unsubscribe(reader)

    # Commands

    async def load(self, request: Request, send: Send) -> None:
        """Load a model, letting the named replicas go."""
        command = await decoded(request, LoadRequest)
        await self._supervisor.before(command)
        running = self._supervisor.load(command)
        await self._answer(running, request, send, wait=command.wait, deadline_s=command.deadline_s)

    async def unload(self, request: Request, send: Send) -> None:
        """Let a replica go."""
        command = await decoded(request, UnloadRequest)
        await self._answer(self._supervisor.unload(command), request, send, wait=command.wait)

    async def sleep(self, request: Request, send: Send) -> None:
        """Let a replica sleep: its weights wait in host memory. 501 where its engine cannot."""
        await self._answer(self._supervisor.sleep(await decoded(request, SleepRequest)), request, send)

    async def wake(self, request: Request, send: Send) -> None:
        """Wake a sleeping replica."""
        await self._answer(self._supervisor.wake(await decoded(request, SleepRequest)), request, send)

    async def pin(self, request: Request, send: Send) -> None:
        """Keep a model loaded, over restarts too."""
        await self._answer(self._standing.pin(await decoded(request, PinRequest)), request, send)

    async def cordon(self, request: Request, send: Send) -> None:
        """No new requests and no loads, over restarts too."""
        await self._answer(self._standing.cordon(await decoded(request, CordonRequest), True), request, send)

    async def uncordon(self, request: Request, send: Send) -> None:
        """Work again."""
        await self._answer(self._standing.cordon(await decoded(request, CordonRequest), False), request, send)

    async def demand(self, request: Request, send: Send) -> None:
        """What a gateway has waiting; lives 3 s."""
        self._standing.demand(await decoded(request, DemandRequest))
        await respond(send, 204, b"")

    async def operation(self, request: Request, send: Send) -> None:
        await respond_json(send, 200, self._operations.get(request.path.split("/")[2]).view())

    async def cancel(self, request: Request, send: Send) -> None:
        await self._answer(self._supervisor.cancel(request.path.split("/")[2]), request, send)

    async def _answer(
        self, running: Running, request: Request, send: Send, *, wait: bool = True, deadline_s: float = 0.0
    ) -> None:
        """The operation when it has ended, as it goes on, or as it is now."""
        if "text/event-stream" in (request.header("accept") or ""):
            return await self._stream(running, send)
        if wait:
            await running.wait(deadline_s)
        if running.error is not None:
            raise Refused.of(running.error)
        await respond_json(send, 200 if running.ended is not None else 202, running.view())
        return None

    async def _stream(self, running: Running, send: Send) -> None:
        async with EventStream(send) as stream:
            await stream.start(200, EVENT_STREAM_HEADERS)
            async for operation in running.watch():
                await stream.write(_event(operation))
            await stream.end()


def _event(operation: Operation) -> bytes:
    name = b"operation" if operation.status == "running" else b"result"
    return b"event: %b\ndata: %b\n\n" % (name, msgspec.json.encode(operation))


async def decoded(request: Request, kind: type[T]) -> T:
    """The body as a command. Raises Refused (`bad_request`) naming the field."""
    body = await request.body(COMMAND_LIMIT)
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `")
        raise Refused("bad_request", problem, field=_field(problem, path)) from error
    except msgspec.DecodeError as error:
        raise Refused("bad_request", f"the body is not JSON: {error}") from error


def _field(problem: str, path: str) -> str:
    """`$.evict[0].mode` → `evict[0].mode`; a missing or unknown key stands in the message itself."""
    parent = path.rstrip("`").removeprefix("$").removeprefix(".")
    named = problem.split("`")[1] if "`" in problem and "field" in problem else ""
    return ".".join(part for part in (parent, named) if part)


async def refuse(send: Send, refused: Refused) -> None:
    headers = [(b"x-cortex-refusal", refused.refusal.code.encode())]
    if refused.refusal.retry_in_s:
        headers.append((b"retry-after", b"%d" % max(1, round(refused.refusal.retry_in_s))))
    await respond_json(send, refused.status, RefusalBody(error=refused.refusal), headers)

"""The simulator's neuron behind the interface of the HTTP client, for tests that know a neuron by its wire only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import msgspec

from cortex_core.fleet import Profile
from cortex_core.http import BrokenResponse
from cortex_core.neuron_api import (
    DEADLINE_S,
    GATEWAY,
    INSTANCE,
    REPLICA,
    REQUEST_ID,
    CordonRequest,
    DemandEvent,
    DemandRequest,
    Gauges,
    LoadRequest,
    Operation,
    PinRequest,
    RefusalBody,
    ReplicaEvent,
    Report,
    UnloadRequest,
)
from cortex_gateway.dispatch.commands import Refused
from cortex_gateway.sim.connection import Broken
from cortex_gateway.sim.neuron import Head, SimNeuron
from cortex_gateway.sim.truth import Message
from tests.support.until import until_async

EVENT_NAMES: Mapping[type, str] = {
    Report: "snapshot",
    ReplicaEvent: "replica",
    DemandEvent: "demand",
    Gauges: "heartbeat",
}


class Reply:
    """What came back: a status, and the pieces of a body as they come."""

    def __init__(self, status: int, pieces: AsyncIterator[bytes], end: Callable[[], None] = lambda: None) -> None:
        self.status = status
        self.headers: Sequence[tuple[bytes, bytes]] = ()
        self.end = end
        self._pieces = pieces

    async def read_some(self) -> bytes:
        return await anext(self._pieces, b"")

    async def read(self, _limit: int) -> bytes:
        return b"".join([piece async for piece in self._pieces])


class Front:
    """`request` as `cortex_core.http.Client` has it."""

    def __init__(self, neuron: SimNeuron, tasks: asyncio.TaskGroup) -> None:
        self.neuron = neuron
        self._tasks = tasks

    def request(
        self,
        method: str,
        path: str,
        *,
        headers: Sequence[tuple[bytes, bytes]] = (),
        body: bytes = b"",
        timeout_s: float = 60.0,
    ) -> Exchange:
        head = {name.decode(): value.decode() for name, value in headers}
        return Exchange(self._answer(f"{method} {path}", head, body), timeout_s)

    async def _answer(self, target: str, head: Mapping[str, str], body: bytes) -> Reply:
        try:
            match target:
                case "GET /models":
                    return _json(self.neuron.report())
                case "GET /events":
                    return self._events()
                case "POST /v1/chat/completions":
                    return await self._chat(head, msgspec.json.decode(body))
                case _:
                    return await self._command(target, body)
        except Refused as refused:
            return _json(RefusalBody(refused.refusal), refused.status)

    async def _command(self, target: str, body: bytes) -> Reply:
        neuron = self.neuron
        match target:
            case "POST /models/load":
                load = msgspec.json.decode(body, type=LoadRequest)
                model = load.model or load.model_id or ""
                load = msgspec.structs.replace(load, model=model, profile=load.profile or Profile(id=model))
                return await self._operation(neuron.load(load), wait=load.wait)
            case "POST /models/unload":
                unload = msgspec.json.decode(body, type=UnloadRequest)
                return await self._operation(neuron.unload(unload), wait=unload.wait)
            case "POST /models/pin":
                neuron.pin(msgspec.json.decode(body, type=PinRequest))
            case "POST /cordon" | "POST /uncordon":
                cordon = msgspec.json.decode(body or b"{}", type=CordonRequest)
                neuron.cordon(cordon, cordoned=target == "POST /cordon")
            case "POST /demand":
                neuron.demand(msgspec.json.decode(body, type=DemandRequest))
                return _json(None, 204)
            case _:
                raise NotImplementedError(target)
        return _json(None)

    async def _operation(self, work: Any, *, wait: bool) -> Reply:
        if wait:
            return _json(await work)
        self._tasks.create_task(_followed_by_nobody(work))
        await asyncio.sleep(0)
        return _json(Operation(id="", kind="load", status="running"), 202)

    def _events(self) -> Reply:
        heard: asyncio.Queue[Message | None] = asyncio.Queue()
        end = self.neuron.subscribe(heard.put_nowait)

        async def pieces() -> AsyncIterator[bytes]:
            while (message := await heard.get()) is not None:
                yield f"event: {EVENT_NAMES[type(message)]}\ndata: ".encode() + msgspec.json.encode(message) + b"\n\n"

        return Reply(200, pieces(), end)

    async def _chat(self, head: Mapping[str, str], body: Mapping[str, Any]) -> Reply:
        """Judged by its head; the answer begins with its first token."""
        neuron = self.neuron
        judged = Head(
            request_id=head[REQUEST_ID],
            gateway=head.get(GATEWAY, ""),
            instance_id=head.get(INSTANCE, neuron.instance_id),
            replica=head[REPLICA],
            deadline_s=float(head.get(DEADLINE_S, 0)),
        )
        generation = neuron.admit(judged, body["max_tokens"])

        def leave() -> None:
            neuron.leave(generation)

        try:
            await until_async(lambda: generation.ended.done() or neuron.has_begun(generation), timeout_s=30)
            if generation.ended.done() and isinstance(generation.ended.exception(), Refused):
                await generation.ended
        except BaseException:
            leave()
            raise

        async def pieces() -> AsyncIterator[bytes]:
            yield b"data: {}\n\n"
            try:
                await generation.ended
            except Broken as broken:
                raise BrokenResponse("cut") from broken
            yield b"data: [DONE]\n\n"

        return Reply(200, pieces(), leave) if body["stream"] else await self._whole(body["model"], generation, leave)

    async def _whole(self, model: str, generation: Any, leave: Callable[[], None]) -> Reply:
        try:
            await generation.ended
        finally:
            leave()
        return _json({"model": model})


class Exchange:
    """`async with front.request(...) as reply`."""

    def __init__(self, answer: Any, timeout_s: float) -> None:
        self._answer = answer
        self._timeout_s = timeout_s
        self._reply: Reply | None = None

    async def __aenter__(self) -> Reply:
        async with asyncio.timeout(self._timeout_s):
            self._reply = reply = await self._answer
        return reply

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._reply is not None
        self._reply.end()


async def _followed_by_nobody(work: Any) -> None:
    try:
        await work
    except (Refused, Broken):
        return  # its outcome is told by the replica's state


def _json(value: object, status: int = 200) -> Reply:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"" if value is None else msgspec.json.encode(value)

    return Reply(status, pieces())

"""A neuron on the wire that does as it is told: the contract's endpoints, and whatever answers a test wants.

async with ScriptedNeuron("beast") as neuron:
    neuron.ready("tiny")
    neuron.answers = streams(chunk("Hello"), DONE)
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

import msgspec
from msgspec import Struct, structs

from cortex_core import neuron_api
from cortex_core.dialects import sse
from cortex_core.fleet import Checkpoint, Device, ModelFacts, Profile, Replica, Share, State
from cortex_core.http import EventStream, Limits, Receive, Request, Scope, Send, Server, bind, respond, respond_json
from cortex_core.neuron_api import (
    Discovery,
    FinishedEvent,
    Gauges,
    LoadRequest,
    Operation,
    Refusal,
    RefusalBody,
    ReplicaEvent,
    Report,
    UnloadRequest,
    Version,
)

OF_ENGINES = ("/tokenize", "/detokenize", "/classify", "/pooling")
DONE = b"data: [DONE]\n\n"
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\n'


def chunk(content: str = "", *, role: bool = False, finish: str | None = None) -> bytes:
    """One event of a chat stream."""
    delta: dict[str, Any] = ({"role": "assistant"} if role else {}) | {"content": content}
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + msgspec.json.encode({"object": "chat.completion.chunk", "choices": [choice]}) + b"\n\n"


HELLO = (chunk(role=True), chunk("Hello"), chunk(" world"), chunk(finish="stop"), USAGE, DONE)

ANSWER = {
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "I am tiny"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 5}},
}


class Asked(Struct, frozen=True, kw_only=True):
    """One request for an answer, as it came."""

    path: str
    headers: dict[str, str]
    body: bytes


Answers = Callable[[Asked, Send], Awaitable[None]]


def streams(*events: bytes, pause: Callable[[], Awaitable[object]] | None = None, end: str = "clean") -> Answers:
    """An answer of these events. `pause` is awaited before each but the first; `end`: clean, or cut."""

    async def answer(_: Asked, send: Send) -> None:
        async with EventStream(send) as out:
            await out.start(200)
            for number, event in enumerate(events):
                if number and pause is not None:
                    await pause()
                await out.write(event)
            if end == "clean":
                await out.end()

    return answer


def says(value: object, status: int = 200, kind: bytes = b"application/json") -> Answers:
    """A whole answer: JSON, or bytes as they are."""

    async def answer(_: Asked, send: Send) -> None:
        body = value if isinstance(value, bytes) else msgspec.json.encode(value)
        await respond(send, status, body, content_type=kind)

    return answer


def refuses(code: str, **fields: Any) -> Answers:
    """A refusal of the contract."""
    status, retry = neuron_api.REFUSALS[code]
    return says(RefusalBody(Refusal(**{"code": code, "message": code, "retry": retry} | fields)), status)


def in_turn(*answers: Answers) -> Answers:
    """The first request gets the first, and so on; the last one stays."""
    left = list(answers)

    async def answer(asked: Asked, send: Send) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(asked, send)

    return answer


class ScriptedNeuron:
    """One neuron with one device. Its state is changed by the test, and told to all who watch."""

    def __init__(self, name: str, *, memory_mb: int = 4096, listen: str = "127.0.0.1:0") -> None:
        self.name = name
        self.instance_id = f"{name}-1"
        self.replicas: dict[str, Replica] = {}
        self.checkpoints: tuple[Checkpoint, ...] = ()
        self.memory_mb = memory_mb
        self.seq = 0
        self.answers: Answers = streams(*HELLO)
        self.load: Callable[[LoadRequest], Awaitable[None]] | None = None  # may wait, or raise `Refused`
        self.facts: ModelFacts | None = None  # that a load tells of its model
        self.loads: list[LoadRequest] = []
        self.unloads: list[UnloadRequest] = []
        self.asked: list[Asked] = []
        self.running = 0  # answers in the making
        self.used = (0, 0, 0)  # what each request is told to have used: prompt, cached and completion tokens
        self.token = ""
        self.api: str | None = str(neuron_api.API)
        self.beats = True
        self.stuck = False  # it accepts connections and answers nothing
        self._ids = itertools.count(1)
        self._listen = listen
        self._watchers: set[asyncio.Queue[bytes]] = set()
        self._beating: asyncio.Task[None] | None = None
        self._server: Server

    async def __aenter__(self) -> Self:
        listener = bind(self._listen)
        host, port = listener.getsockname()
        self._listen = f"{host}:{port}"
        self._server = Server(self._app, listeners=[listener], limits=Limits(keep_alive_s=75.0))
        await self._server.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._server.__aexit__(kind, error, trace)

    @property
    def endpoint(self) -> str:
        return f"http://{self._listen}"

    # ------------------------------------------------------------------ what a test does to it

    def ready(self, model: str, *, profile: Profile | None = None, **fields: Any) -> Replica:
        """A replica that takes requests."""
        profile = profile or Profile(id=model)
        replica = Replica(
            id=f"{self.name}-r{next(self._ids)}",
            version=1,
            model=model,
            digest=profile.digest,
            state=State.READY,
            devices=(Share("cpu:0", profile.vram_mb or 1000),),
            max_in_flight=64,
            max_queue_depth=8,
            tier="running",
        )
        replica = structs.replace(replica, **fields)
        self.tell(replica)
        return replica

    def tell(self, replica: Replica) -> None:
        """The replica is so now."""
        if replica.state in (State.ABSENT, State.FAILED):
            self.replicas.pop(replica.id, None)
        else:
            self.replicas[replica.id] = replica
        self.seq += 1
        self._send("replica", ReplicaEvent(seq=self.seq, replica=replica))

    def restart(self) -> None:
        """Another instance behind the same address, with nothing loaded; who watches is cut off."""
        name, _, number = self.instance_id.rpartition("-")
        self.instance_id = f"{name}-{int(number) + 1}"
        self.replicas.clear()
        self.seq = 0
        for watcher in self._watchers:
            watcher.put_nowait(b"")

    def report(self) -> Report:
        return Report(
            name=self.name,
            instance_id=self.instance_id,
            seq=self.seq,
            build="scripted",
            devices=(Device(id="cpu:0", name="scripted", memory_mb=self.memory_mb),),
            replicas=tuple(self.replicas.values()),
            checkpoints=self.checkpoints,
            simulated=True,
        )

    # ------------------------------------------------------------------ the wire

    def _send(self, event: str, value: object) -> None:
        for watcher in self._watchers:
            watcher.put_nowait(sse.encode(msgspec.json.encode(value), event))

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        if self.stuck:
            await asyncio.Event().wait()
        if self.token and request.header("authorization") != f"Bearer {self.token}":
            await refuses("unauthorized")(Asked(path=request.path, headers={}, body=b""), send)
            return
        if request.path.startswith("/v1/") or request.path in OF_ENGINES:
            await self._answer(request, send)
            return
        headers = [] if self.api is None else [(neuron_api.API_HEADER.encode(), self.api.encode())]
        match request.path:
            case "/version":
                version = Version(build="scripted", name=self.name, instance_id=self.instance_id)
                await respond_json(send, 200, version, headers)
            case "/discovery":
                found = Discovery(name=self.name, instance_id=self.instance_id, hostname="scripted", os="scripted")
                await respond_json(send, 200, structs.replace(found, checkpoints=self.checkpoints), headers)
            case "/models":
                await respond_json(send, 200, self.report(), headers)
            case "/events":
                await self._events(send)
            case "/demand":
                await request.body()
                await respond(send, 204, b"")
            case "/models/load":
                await self._load(msgspec.json.decode(await request.body(), type=LoadRequest), send)
            case "/models/unload":
                await self._unload(msgspec.json.decode(await request.body(), type=UnloadRequest), send)
            case _:
                await refuses("not_found")(Asked(path=request.path, headers={}, body=b""), send)

    async def _answer(self, request: Request, send: Send) -> None:
        headers = {name.decode(): value.decode() for name, value in request.headers}
        asked = Asked(path=request.path, headers=headers, body=await request.body())
        self.asked.append(asked)
        self.running += 1
        try:
            await self.answers(asked, send)
        finally:
            self.running -= 1
            self._finished(headers)

    def _finished(self, headers: dict[str, str]) -> None:
        self.seq += 1
        prompt, cached, completion = self.used
        told = FinishedEvent(
            seq=self.seq,
            gateway=headers.get(neuron_api.GATEWAY, ""),
            request_id=headers.get(neuron_api.REQUEST_ID, ""),
            model="",
            prompt_tokens=prompt,
            cached_tokens=cached,
            completion_tokens=completion,
            outcome="stop",
            seconds=1.0,
        )
        self._send("finished", told)

    async def _events(self, send: Send) -> None:
        watcher: asyncio.Queue[bytes] = asyncio.Queue()
        self._watchers.add(watcher)
        try:
            async with EventStream(send) as out:
                await out.start(200)
                await out.write(sse.encode(msgspec.json.encode(self.report()), "snapshot"))
                while True:
                    try:
                        async with asyncio.timeout(neuron_api.HEARTBEAT_S):
                            event = await watcher.get()
                    except TimeoutError:
                        if self.beats:
                            await out.write(sse.encode(msgspec.json.encode(Gauges(seq=self.seq)), "heartbeat"))
                        continue
                    if not event:
                        return
                    await out.write(event)
        finally:
            self._watchers.discard(watcher)

    async def _load(self, request: LoadRequest, send: Send) -> None:
        if request.instance_id != self.instance_id:
            await refuses("outrun", instance_id=self.instance_id)(
                Asked(path="/models/load", headers={}, body=b""), send
            )
            return
        self.loads.append(request)
        assert request.model is not None
        profile = request.profile or Profile(id=request.model)
        share = request.placement or (Share("cpu:0", profile.vram_mb or 1000),)
        for victim in request.evict:
            self.tell(structs.replace(self.replicas[victim.replica], state=State.ABSENT))
        replica = self.ready(request.model, profile=profile, devices=share, state=State.LOADING)
        if self.load is not None:
            try:
                await self.load(request)
            except Refused as refused:
                self.tell(structs.replace(replica, state=State.ABSENT, version=2))
                await respond_json(send, refused.status, RefusalBody(refused.refusal))
                return
        replica = structs.replace(replica, state=State.READY, version=2, facts=self.facts)
        self.tell(replica)
        done = Operation(id=request.operation_id, kind="load", status="done", model=request.model, replica=replica)
        await respond_json(send, 200, done)

    async def _unload(self, request: UnloadRequest, send: Send) -> None:
        self.unloads.append(request)
        replica = structs.replace(self.replicas[request.replica], state=State.ABSENT)
        self.tell(replica)
        done = Operation(id=request.operation_id, kind="unload", status="done", model=replica.model, replica=replica)
        await respond_json(send, 200, done)


class Refused(Exception):
    """Raised by a test's `load`: the neuron refuses."""

    def __init__(self, code: str, **fields: Any) -> None:
        self.status, retry = neuron_api.REFUSALS[code]
        self.refusal = Refusal(**{"code": code, "message": code, "retry": retry} | fields)

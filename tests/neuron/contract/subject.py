"""How the contract's tests speak with a neuron."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec

from cortex_core.dialects.sse import Event, SseDecoder
from cortex_core.fleet import Replica
from cortex_core.http import BrokenResponse, Client, Response
from cortex_core.neuron_api import GATEWAY, REPLICA, REQUEST_ID, Operation, Refusal, RefusalBody, Report
from tests.support.until import until_async

T = TypeVar("T")
ANSWER_S = 60.0
NOTHING: Mapping[str, str] = MappingProxyType({})
_ids = itertools.count(1)


class Answer(msgspec.Struct, frozen=True):
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    def as_(self, kind: type[T]) -> T:
        """The body, which must be exactly of this kind."""
        return msgspec.json.decode(self.body, type=kind)

    @property
    def refusal(self) -> Refusal:
        return self.as_(RefusalBody).error


class Subject:
    """A neuron under test. `models` are three that it can load, two of them at a time."""

    def __init__(self, client: Client, models: tuple[str, ...], replica_mb: int) -> None:
        self.client = client
        self.models = models
        self.replica_mb = replica_mb

    async def call(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        sent = b"" if body is None else body if isinstance(body, bytes) else msgspec.json.encode(body)
        pairs = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        async with self.client.request(method, path, headers=pairs, body=sent, timeout_s=ANSWER_S) as response:
            found = {name.decode(): value.decode() for name, value in response.headers}
            return Answer(response.status, found, await response.read(1 << 24))

    async def get(self, path: str, kind: type[T]) -> T:
        answer = await self.call("GET", path)
        assert answer.status == 200, answer.body
        return answer.as_(kind)

    async def report(self) -> Report:
        return await self.get("/models", Report)

    def profile(self, model: str, **options: Any) -> dict[str, Any]:
        return {"id": model, "vram_mb": self.replica_mb, **options}

    async def command(self, path: str, **body: Any) -> Answer:
        return await self.call("POST", path, body)

    async def load(self, model: str, *, options: Mapping[str, Any] | None = None, **more: Any) -> Replica:
        """Load a model, which must succeed."""
        answer = await self.command("/models/load", model=model, profile=self.profile(model, **(options or {})), **more)
        assert answer.status == 200, answer.body
        replica = answer.as_(Operation).replica
        assert replica is not None
        return replica

    async def try_load(self, model: str, **more: Any) -> Answer:
        return await self.command("/models/load", model=model, profile=self.profile(model), **more)

    async def replica(self, model: str) -> Replica | None:
        return next((r for r in (await self.report()).replicas if r.model == model), None)

    async def clear(self) -> None:
        """Everything is let go, and nothing is pinned or cordoned."""
        await self.command("/uncordon")
        report = await self.report()
        for model in report.pins:
            await self.command("/models/pin", model=model, pinned=False)
        for replica in report.replicas:
            await self.command("/models/unload", replica=replica.id, mode="cut", drain_s=0)

        async def gone() -> bool:
            return not (await self.report()).replicas

        await until_async(gone, what="every replica gone")

    # Requests

    def head(self, replica: Replica, more: Mapping[str, str] = NOTHING, gateway: str = "g1") -> dict[str, str]:
        return {REQUEST_ID: f"req-{next(_ids)}", GATEWAY: gateway, REPLICA: replica.id, **more}

    def chat(self, model: str, tokens: int = 4, *, stream: bool = False) -> dict[str, Any]:
        return {
            "model": model,
            "messages": [{"role": "user", "content": "Who are you?"}],
            "max_tokens": tokens,
            "stream": stream,
            "ignore_eos": True,
        }

    async def ask(
        self, replica: Replica, tokens: int = 4, *, head: Mapping[str, str] = NOTHING, gateway: str = "g1"
    ) -> Answer:
        body = self.chat(replica.model, tokens)
        return await self.call("POST", "/v1/chat/completions", body, self.head(replica, head, gateway))

    @asynccontextmanager
    async def streaming(
        self, replica: Replica, tokens: int = 1500, *, head: Mapping[str, str] = NOTHING
    ) -> AsyncIterator[Response]:
        """A long stream whose first bytes are here."""
        pairs = [(name.encode(), value.encode()) for name, value in self.head(replica, head).items()]
        body = msgspec.json.encode(self.chat(replica.model, tokens, stream=True))
        async with self.client.request(
            "POST", "/v1/chat/completions", headers=pairs, body=body, timeout_s=ANSWER_S
        ) as response:
            assert response.status == 200
            assert await response.read_some()
            yield response

    async def until_state(self, model: str, state: str, *, version: int = 0, timeout_s: float = 10.0) -> Replica:
        """The model's replica once it is in that state, of that version at least."""

        async def reached() -> Replica | None:
            found = await self.replica(model)
            return found if found is not None and found.state == state and found.version >= version else None

        found = await until_async(reached, timeout_s=timeout_s, what=f"{model} {state}")
        assert found is not None
        return found

    async def until_idle(self, model: str, *, timeout_s: float = 10.0) -> None:
        async def idle() -> bool:
            found = await self.replica(model)
            return found is not None and found.in_flight == 0

        await until_async(idle, timeout_s=timeout_s, what=f"{model} without requests")

    @asynccontextmanager
    async def events(self, gateway: str = "g1") -> AsyncIterator[Events]:
        headers = [(GATEWAY.encode(), gateway.encode()), (b"accept", b"text/event-stream")]
        async with self.client.request("GET", "/events", headers=headers, timeout_s=ANSWER_S) as response:
            assert response.status == 200
            yield Events(response)


class Events:
    """An event stream that is read one event at a time."""

    def __init__(self, response: Response) -> None:
        self._response = response
        self._decoder = SseDecoder()
        self._ready: list[Event] = []

    async def next(self, timeout_s: float = 10.0) -> Event:
        async with asyncio.timeout(timeout_s):
            while not self._ready:
                data = await self._response.read_some()
                assert data, "the events ended"
                self._ready += self._decoder.feed(data)
            return self._ready.pop(0)

    async def until(self, name: str, kind: type[T], timeout_s: float = 10.0) -> T:
        """The next event of a name."""
        while (event := await self.next(timeout_s)).event != name:
            pass
        return msgspec.json.decode(event.data, type=kind)


async def rest_of(response: Response) -> tuple[bytes, bool]:
    """What is still to come of an answer, and whether it came to a clean end."""
    pieces = []
    try:
        while data := await response.read_some():
            pieces.append(data)
    except BrokenResponse:
        return b"".join(pieces), False
    return b"".join(pieces), True


Test = TypeVar("Test", bound=Callable[..., Any])


def real(test: Test) -> Test:
    """Marks what is run with a real engine as well: where the engine is what it is about."""
    test.with_real_engine = True  # type: ignore[attr-defined]
    return test

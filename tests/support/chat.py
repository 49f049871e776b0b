"""A client that sees everything: each event, how the answer ended, and the connection it can drop at any moment."""

from __future__ import annotations

import io
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp


@dataclass
class Answer:
    """What came of one request."""

    status: int
    headers: dict[str, str]  # names in lower case
    events: list[dict[str, Any]] = field(default_factory=list)  # of a stream
    body: Any = None  # of an answer that is no stream: its JSON
    done: bool = False  # the terminal event came
    broken: bool = False  # the connection broke off
    seconds: float = 0.0

    @property
    def error(self) -> dict[str, Any] | None:
        """The error's inner object, in-band or not."""
        said = [self.body, *self.events] if self.body else self.events
        return next((one["error"] for one in said if "error" in one), None)

    @property
    def clean(self) -> bool:
        """It ended as a complete answer does: what a client takes for the whole."""
        return self.status == 200 and not self.broken and self.error is None and (self.done or self.body is not None)

    @property
    def text(self) -> str:
        """The content, streamed or whole, of chat or completion."""
        if self.body is not None:
            choice = self.body["choices"][0]
            return str(choice["text"] if "text" in choice else choice["message"]["content"])
        choices = [event["choices"][0] for event in self.events if event.get("choices")]
        return "".join(c["text"] if "text" in c else c["delta"].get("content") or "" for c in choices)

    @property
    def usage(self) -> dict[str, Any] | None:
        if self.body is not None:
            return self.body.get("usage")
        return next((event["usage"] for event in reversed(self.events) if event.get("usage")), None)


class Stream:
    """An answer under way. Leaving its context drops the connection."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        headers = {name.lower(): value for name, value in response.headers.items()}
        self.answer = Answer(response.status, headers)
        self._response = response
        self._rest = b""
        self._began = time.monotonic()

    async def first(self) -> str:
        """The first piece of content."""
        return self.answer.text or await self.next()

    async def next(self) -> str:
        """All content so far, with at least one piece more than now."""
        length = len(self.answer.text)
        while len(self.answer.text) == length:
            if not await self._more():
                raise AssertionError(f"no more content came: {self.answer}")
        return self.answer.text

    async def rest(self) -> Answer:
        """The answer, to its end."""
        if not self._response.content_type.endswith("event-stream"):
            try:
                self.answer.body = json.loads(await self._response.read())
            except aiohttp.ClientPayloadError:
                self.answer.broken = True
        else:
            while await self._more():
                pass
        self.answer.seconds = time.monotonic() - self._began
        return self.answer

    async def _more(self) -> bool:
        try:
            data = await self._response.content.readany()
        except (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError):
            self.answer.broken = True
            return False
        *blocks, self._rest = (self._rest + data).split(b"\n\n")
        for block in blocks:
            for line in block.split(b"\n"):
                if line == b"data: [DONE]":
                    self.answer.done = True
                elif line.startswith(b"data: "):
                    self.answer.events.append(json.loads(line[6:]))
        return bool(data)


class Chat:
    """Asks one gateway, over as many connections as there are questions."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.session = session
        self.url = url

    @asynccontextmanager
    async def open(
        self,
        model: str,
        content: str = "Hello",
        *,
        stream: bool = True,
        path: str = "/v1/chat/completions",
        **body: Any,
    ) -> AsyncIterator[Stream]:
        """An answer once its head is there."""
        payload = {"model": model, "messages": [{"role": "user", "content": content}], "stream": stream, **body}
        async with self.session.post(self.url + path, json=payload) as response:
            try:
                yield Stream(response)
            finally:
                response.close()

    async def ask(self, model: str, content: str = "Hello", **body: Any) -> Answer:
        """The whole answer; `stream=False` for one that is not streamed."""
        async with self.open(model, content, **body) as stream:
            return await stream.rest()

    async def send(self, method: str, path: str, data: bytes | None = None, **headers: str) -> Answer:
        """Any bytes to any path."""
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        body = None if data is None else io.BytesIO(data)
        async with self.session.request(method, self.url + path, data=body, headers=names) as response:
            return await Stream(response).rest()


@asynccontextmanager
async def chatting(url: str) -> AsyncIterator[Chat]:
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    timeout = aiohttp.ClientTimeout(total=90)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        yield Chat(session, url)

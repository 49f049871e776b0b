"""One neuron's control endpoints over aiohttp, with every foreign error mapped to ours.

Requests for answers do not come here: they take the byte path (`relay`). aiohttp is set up as reliability 5.4 found
that it must be: no total timeout, no redirects (they would carry the token elsewhere), no decompression, keep-alive
shorter than the server's, and POST for whatever changes state, since it silently repeats GET, PUT and DELETE.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import aiohttp
import msgspec

from cortex_core import neuron_api
from cortex_core.dialects.sse import Event, EventTooLarge, SseDecoder
from cortex_core.neuron_api import Discovery, Operation, Refusal, RefusalBody, Report, Version
from cortex_gateway.dispatch.commands import Refused, Unreachable

CONNECT_S = 1.0
KEEP_ALIVE_S = 60.0  # the neuron's server keeps idle connections for 75
ANSWER_S = 5.0  # for what a neuron can say at once
MAX_ANSWER_BYTES = 32 << 20
MAX_REFUSAL_BYTES = 1 << 20
USER_TIMEOUT_MS = 30_000

T = TypeVar("T")


class NoConnection(Unreachable):
    """Nothing was sent, because nobody could be connected to. Refused: somebody's host said that nobody listens."""

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


class Ended(Unreachable):
    """The neuron, or its host, closed the connection of the events."""


class Incompatible(Exception):
    """A neuron of another contract: it cannot be talked to until one of the two is updated."""


def session(gateway: str, token: str, *, fresh: bool = False) -> aiohttp.ClientSession:
    """For all neurons together. `gateway` is this gateway's id; with `fresh` every request makes a new connection."""
    headers = {
        neuron_api.API_HEADER: str(neuron_api.API),
        neuron_api.GATEWAY: gateway,
        "accept-encoding": "identity",
        "user-agent": "cortex-gateway",
    }
    if token:
        headers["authorization"] = f"Bearer {token}"
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=0, force_close=fresh, keepalive_timeout=None if fresh else KEEP_ALIVE_S, socket_factory=_socket
        ),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=None),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=headers,
    )


def _socket(address: Any) -> socket.socket:
    """A peer that vanished without a word is noticed by the kernel: F08."""
    family, kind, protocol, _, _ = address
    sock = socket.socket(family, kind, protocol)
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
    return sock


class NeuronClient:
    """What can be asked of one neuron. `on_bytes` is called whenever something came from it.

    The watch makes new connections: in a partition a kept one takes what is written to it and never fails.

    Every call may raise
        Refused: it answered that it will not.
        NoConnection, Ended, Unreachable: no answer, or a broken one; whether it acted is unknown.
        Incompatible: it speaks another version of the contract.
    """

    def __init__(
        self, kept: aiohttp.ClientSession, fresh: aiohttp.ClientSession, endpoint: str, on_bytes: Callable[[], None]
    ) -> None:
        self._kept = kept
        self._fresh = fresh
        self._base = endpoint.rstrip("/")
        self._on_bytes = on_bytes

    async def version(self) -> Version:
        """Over a connection of its own."""
        return await self._ask("GET", "/version", Version, answer_s=ANSWER_S, session=self._fresh)

    async def discovery(self) -> Discovery:
        return await self._ask("GET", "/discovery", Discovery, answer_s=ANSWER_S)

    async def models(self) -> Report:
        return await self._ask("GET", "/models", Report, answer_s=ANSWER_S)

    async def command(self, path: str, body: msgspec.Struct) -> Operation:
        """POST a command and wait for its end, however long: the neuron bounds that.

        Raises:
            Refused: at once, or because the operation failed.
        """
        operation = await self._ask("POST", path, Operation, body=body)
        if operation.error is not None:
            raise Refused(operation.error)
        if operation.status != "done":
            raise Unreachable(f"{operation.kind} ended as {operation.status}")
        return operation

    async def tell(self, path: str, body: msgspec.Struct) -> None:
        """POST something that is answered by nothing."""
        async with self._request(self._kept, "POST", path, msgspec.json.encode(body), ANSWER_S) as response:
            await self._read(response, MAX_REFUSAL_BYTES)

    async def _ask(
        self,
        method: str,
        path: str,
        kind: type[T],
        *,
        body: msgspec.Struct | None = None,
        answer_s: float | None = None,
        session: aiohttp.ClientSession | None = None,
    ) -> T:
        data = None if body is None else msgspec.json.encode(body)
        async with self._request(session or self._kept, method, path, data, answer_s) as response:
            content = await self._read(response, MAX_ANSWER_BYTES)
        try:
            return msgspec.json.decode(content, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise Unreachable(f"{path} answered something else than {kind.__name__}: {error}") from error

    @asynccontextmanager
    async def events(self) -> AsyncIterator[AsyncIterator[Event]]:
        """`GET /events`: ends when the neuron ends it, and with `Unreachable` when it is silent for too long."""
        accept = "text/event-stream"
        async with self._request(self._fresh, "GET", "/events", None, ANSWER_S, accept=accept) as response:
            yield self._events(response)

    async def _events(self, response: aiohttp.ClientResponse) -> AsyncIterator[Event]:
        decoder = SseDecoder()
        while True:
            try:
                async with asyncio.timeout(neuron_api.SILENCE_S):
                    chunk = await response.content.readany()
            except TimeoutError:
                raise Unreachable(f"no heartbeat for {neuron_api.SILENCE_S:.0f} s") from None
            except (aiohttp.ClientError, OSError) as error:
                raise Ended(_said(error)) from error
            if not chunk:
                raise Ended("it closed the connection")
            self._on_bytes()
            try:
                events = decoder.feed(chunk)
            except EventTooLarge as error:
                raise Unreachable(str(error)) from error
            for event in events:
                yield event

    @asynccontextmanager
    async def _request(
        self,
        session: aiohttp.ClientSession,
        method: str,
        path: str,
        data: bytes | None,
        answer_s: float | None,
        *,
        accept: str = "application/json",
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A response of status 2xx, its body unread; `answer_s` bounds the wait for its head."""
        headers = {"accept": accept} | ({"content-type": "application/json"} if data is not None else {})
        try:
            async with asyncio.timeout(answer_s) as clock:
                async with session.request(
                    method, self._base + path, data=data, headers=headers, allow_redirects=False
                ) as response:
                    if accept == "text/event-stream":
                        clock.reschedule(None)
                    self._on_bytes()
                    if not neuron_api.speaks(response.headers.get(neuron_api.API_HEADER)):
                        raise Incompatible(
                            f"it speaks version {response.headers[neuron_api.API_HEADER]} of the contract, "
                            f"this gateway version {neuron_api.API}"
                        )
                    if not 200 <= response.status < 300:
                        raise await self._refused(response, path)
                    yield response
        except TimeoutError:
            raise Unreachable(f"no answer to {path} within {answer_s} s") from None
        except aiohttp.ClientConnectorError as error:
            raise NoConnection(_said(error), refused=isinstance(error.os_error, ConnectionRefusedError)) from error
        except aiohttp.ConnectionTimeoutError as error:
            raise NoConnection(f"no connection within {CONNECT_S:.0f} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(_said(error)) from error

    async def _refused(self, response: aiohttp.ClientResponse, path: str) -> Exception:
        if response.status == 401:
            told = "it does not take our token: see [fleet] token_file"
            return Refused(Refusal(code="unauthorized", message=told), response.status)
        content = await self._read(response, MAX_REFUSAL_BYTES)
        try:
            return Refused(msgspec.json.decode(content, type=RefusalBody).error, response.status)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return Unreachable(f"{path} answered {response.status}, and no neuron's words")

    async def _read(self, response: aiohttp.ClientResponse, limit: int) -> bytes:
        pieces: list[bytes] = []
        size = 0
        while chunk := await response.content.readany():
            self._on_bytes()
            size += len(chunk)
            if size > limit:
                raise Unreachable(f"an answer over {limit} bytes")
            pieces.append(chunk)
        return b"".join(pieces)


def _said(error: Exception) -> str:
    """A foreign error in a line for people."""
    if isinstance(error, aiohttp.ClientConnectorError):
        cause = error.os_error
        return f"connect failed: {os.strerror(cause.errno) if cause.errno else cause}"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__

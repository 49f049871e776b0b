"""An answer under way, as its reader has it: piece by piece, whole, or poured into a function."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from cortex_core.http.request import BodyTooLarge
from cortex_core.http.upstream import BrokenResponse

if TYPE_CHECKING:
    from cortex_core.http.client import Client
    from cortex_core.http.upstream import Upstream

_CONTINUE_S = 1.0  # after which a body is sent without having been asked for (RFC 9110 10.1.1)
_PIECE_BYTES = 256 << 10  # of a large body, written in one turn of the loop


class Response:
    """An answer under way. Left before its end, it aborts: the server sees its client gone at once."""

    __slots__ = ("_body", "_client", "_connection", "_expects", "_head", "_timeout_s")

    def __init__(
        self, client: Client, head: bytes, body: bytes | bytearray, timeout_s: float | None, expects: bool
    ) -> None:
        self._client = client
        self._head = head
        self._body = body
        self._timeout_s = timeout_s
        self._expects = expects
        self._connection: Upstream

    async def __aenter__(self) -> Self:
        connection = self._client.checkout() or await self._client.connect()
        self._connection = connection
        timer: asyncio.TimerHandle | None = None
        if self._timeout_s is not None:
            late = BrokenResponse(f"{self._client.origin}: no answer within {self._timeout_s:g} s")
            timer = asyncio.get_running_loop().call_later(self._timeout_s, connection.fail, late)
        try:
            connection.begin(self._head, self._body, wait=self._expects)
            if self._expects:
                await self._wait_for_continue()
            if connection.unsent:
                await self._send_body()
            while not connection.status:
                if connection.error is not None:
                    raise connection.error
                await connection.changed()
        except BaseException:
            connection.transport.abort()
            raise
        finally:
            if timer is not None:
                timer.cancel()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.give_back(self._connection)

    @property
    def status(self) -> int:
        return self._connection.status

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Names in lower case."""
        return self._connection.headers

    def header(self, name: bytes) -> bytes | None:
        """The first value of a header, its name in lower case."""
        for found, value in self._connection.headers:
            if found == name:
                return value
        return None

    @property
    def started(self) -> bool:
        """Whether any byte of the answer has come."""
        return self._connection.answered

    @property
    def complete(self) -> bool:
        """Whether the whole answer has arrived; what `read_some` has not yet given may still be held."""
        return self._connection.complete

    @property
    def ended(self) -> bool:
        """Whether the whole answer has arrived and been given."""
        return self._connection.complete and not self._connection.pieces

    async def read_some(self) -> bytes:
        """Whatever has arrived, joined; waits for at least a byte. b"" at the clean end; BrokenResponse at any other,
        after all that came before it has been given."""
        connection = self._connection
        while not connection.pieces:
            if connection.complete:
                return b""
            if connection.error is not None:
                raise connection.error
            await connection.changed()
        return connection.take()

    async def pour(self, take: Callable[[bytes], bool]) -> None:
        """Gives `take` whatever arrives, joined, in the very moment: no task is woken for it. Until `take` returns
        False or the answer ends; BrokenResponse at any other end. `take` must not raise."""
        connection = self._connection
        if connection.pieces and not take(connection.take()):
            return
        connection.taker = take
        try:
            while connection.taker is take and not connection.complete:
                if connection.error is not None:
                    raise connection.error
                await connection.changed()
        finally:
            connection.taker = None

    async def read(self, limit_bytes: int) -> bytes:
        """The whole body. Raises BodyTooLarge over the limit, BrokenResponse."""
        connection = self._connection
        if connection.complete and connection.held_bytes <= limit_bytes:
            return connection.take()
        pieces: list[bytes] = []
        size = 0
        while data := await self.read_some():
            pieces.append(data)
            size += len(data)
            if size > limit_bytes:
                raise BodyTooLarge(limit_bytes)
        return b"".join(pieces)

    async def _wait_for_continue(self) -> None:
        connection = self._connection
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CONTINUE_S):
                while not connection.told_to_go_on and not connection.status and connection.error is None:
                    await connection.changed()

    async def _send_body(self) -> None:
        """In pieces: handed over whole, a large body would be copied twice in one turn of the loop."""
        connection, body = self._connection, memoryview(self._body)
        for at in range(0, len(body), _PIECE_BYTES):
            while connection.write_paused and not connection.status and connection.error is None:
                await connection.changed()
            if connection.status or connection.error is not None:
                return  # nobody reads the rest
            connection.transport.write(body[at : at + _PIECE_BYTES])
        connection.unsent = False

"""What a handler reads of a request."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar
from urllib.parse import parse_qsl

from cortex_core.http.asgi import Headers, Receive, Scope
from cortex_core.http.head import Refusal

T = TypeVar("T")


class Disconnected(Exception):
    """The client left before its request was complete."""


class BodyTooLarge(Refusal):
    """The body is longer than the handler takes; `limit_bytes` says how much that is. 413, by the server if need be."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(413, f"the request's body is over {limit_bytes} bytes")
        self.limit_bytes = limit_bytes


def read_once(scope: Scope, read: Callable[[Scope], T]) -> T:
    """What `read` makes of a request's head, and of nothing else: of a head that comes again it is known already."""
    known: dict[Callable[[Scope], T], T] | None = scope.get("cortex.read")
    if known is None:  # not our server's
        return read(scope)
    if read not in known:
        known[read] = read(scope)
    return known[read]


class Request:
    """A thin view of an ASGI scope. `path` is decoded once: %2F in it has become a slash, and nothing is normalised."""

    __slots__ = ("_receive", "headers", "method", "path", "raw_path", "scope")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope = scope
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.raw_path: bytes = scope["raw_path"]
        self.headers: Headers = scope["headers"]  # names in lower case
        self._receive = receive

    @property
    def query(self) -> dict[str, str]:
        """The query's parameters; of a repeated one the last counts."""
        return dict(parse_qsl(self.scope["query_string"].decode("latin-1"), keep_blank_values=True))

    @property
    def client(self) -> str | None:
        """The peer's address; None on a unix socket."""
        client = self.scope["client"]
        return client[0] if client else None

    def header(self, name: str) -> str | None:
        """The first value of a header, its name in lower case."""
        wanted = name.encode()
        for found, value in self.headers:
            if found == wanted:
                return value.decode("latin-1")
        return None

    @property
    def content_length(self) -> int | None:
        """The declared size of the body in bytes; None for a chunked one."""
        declared = self.header("content-length")
        if declared is not None:
            return int(declared)
        return 0 if self.header("transfer-encoding") is None else None

    async def pour(self, take: Callable[[bytes], None]) -> None:
        """Gives `take` the body, piece by piece as it comes. Raises Disconnected, and whatever `take` raises."""
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            take(message["body"])
            more = message["more_body"]

    async def body(self, limit_bytes: int | None = None) -> bytes:
        """The whole body. Raises BodyTooLarge (before a byte is read, if the length is declared), Disconnected."""
        if limit_bytes is not None and (self.content_length or 0) > limit_bytes:
            raise BodyTooLarge(limit_bytes)
        whole: list[bytes] | None = self.scope.get("cortex.body")  # our server's
        if whole:
            return whole.pop()
        pieces: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            piece = message["body"]
            size += len(piece)
            if limit_bytes is not None and size > limit_bytes:
                raise BodyTooLarge(limit_bytes)
            if not message["more_body"]:
                return b"".join((*pieces, piece)) if pieces else piece
            pieces.append(piece)

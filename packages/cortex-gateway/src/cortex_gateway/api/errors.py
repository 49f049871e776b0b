"""Errors as answers, and the ids that every answer carries."""

from __future__ import annotations

import itertools

from cortex_core.errors import CortexError, Dialect, Rendered, render
from cortex_core.http import Headers, Scope, Send, respond

ALLOW_POST: Headers = ((b"allow", b"POST"),)

_KINDS = {
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    413: "body_too_large",
    500: "internal",
    501: "unsupported",
    503: "shutting_down",
}


class Ids:
    """Request ids, unique among all gateways: this one's id and a count. A client's own id is never taken for one,
    since clients use theirs again."""

    def __init__(self, gateway: str) -> None:
        self.gateway = gateway
        self._prefix = f"req_{gateway}"
        self._count = itertools.count(1)

    def next(self) -> str:
        return f"{self._prefix}{next(self._count):08x}"


async def refuse(send: Send, error: CortexError, dialect: Dialect, request_id: str, headers: Headers = ()) -> None:
    """Answer with an error in the caller's dialect."""
    rendered = render(error, dialect, request_id)
    await respond(send, rendered.status, rendered.body, [*rendered.headers, *headers])


def rendered(status: int, message: str, ids: Ids) -> Rendered:
    """An error that the server or the router found, by its status."""
    kind = _KINDS.get(status, "bad_request" if status < 500 else "internal")
    found = render(CortexError(kind, message), Dialect.OPENAI_CHAT, ids.next())
    return found._replace(status=status)


class ServerErrors:
    """What the server answers by itself: malformed or too large requests, and a handler's bug."""

    def __init__(self, ids: Ids) -> None:
        self._ids = ids

    def __call__(self, status: int, message: str, _: Scope | None) -> tuple[Headers, bytes]:
        error = rendered(status, message, self._ids)
        return error.headers, error.body

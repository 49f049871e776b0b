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


def dialect_of(scope: Scope | None) -> Dialect:
    """Whose envelope a caller reads, by all that is known of one whose request came to no handler (H-10)."""
    if scope is None or scope["type"] != "http":
        return Dialect.OPENAI_CHAT
    anthropic = "/messages" in scope["path"] or any(name == b"anthropic-version" for name, _ in scope["headers"])
    return Dialect.ANTHROPIC_MESSAGES if anthropic else Dialect.OPENAI_CHAT


async def refuse(send: Send, error: CortexError, dialect: Dialect, request_id: str, headers: Headers = ()) -> None:
    """Answer with an error in the caller's dialect."""
    rendered = render(error, dialect, request_id)
    await respond(send, rendered.status, rendered.body, [*rendered.headers, *headers])


def rendered(status: int, message: str, ids: Ids, scope: Scope | None = None) -> Rendered:
    """An error that the server or the router found, by its status."""
    kind = _KINDS.get(status, "bad_request" if status < 500 else "internal")
    dialect = dialect_of(scope)
    found = render(CortexError(kind, message), dialect, ids.next())
    overloaded = dialect is Dialect.ANTHROPIC_MESSAGES and status == 503
    return found if overloaded else found._replace(status=status)


class ServerErrors:
    """What the server answers by itself: malformed or too large requests, and a handler's bug."""

    def __init__(self, ids: Ids) -> None:
        self._ids = ids

    def __call__(self, status: int, message: str, scope: Scope | None) -> tuple[Headers, bytes]:
        error = rendered(status, message, self._ids, scope)
        return error.headers, error.body

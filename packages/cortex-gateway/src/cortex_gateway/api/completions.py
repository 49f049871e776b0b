"""Every `POST` that a model answers: chat, completions, Messages, Responses, embeddings, ranks, tokens."""

from __future__ import annotations

from cortex_core.errors import CortexError, Dialect
from cortex_core.http import Receive, Request, Scope, Send
from cortex_gateway.api.desk import Desk
from cortex_gateway.api.errors import ALLOW_POST, refuse


class Completions:
    """The handler of one endpoint: its dialect, and where the engine answers it. Has no state of its own."""

    def __init__(self, desk: Desk, dialect: Dialect, target: str) -> None:
        self._desk = desk
        self._dialect = dialect
        self._target = target

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        desk, dialect = self._desk, self._dialect
        request_id = desk.ids.next()
        try:
            if scope["method"] != "POST":
                raise CortexError("method_not_allowed", f"{scope['method']} is not allowed here: POST")
            call = await desk.call(Request(scope, receive), send, dialect, self._target, request_id)
        except CortexError as error:
            desk.telemetry.refused(dialect, error.kind)
            await refuse(send, error, dialect, request_id, ALLOW_POST if error.kind == "method_not_allowed" else ())
            return
        try:
            await desk.relay.answer(call)
        except CortexError as error:
            await refuse(send, error, dialect, request_id)

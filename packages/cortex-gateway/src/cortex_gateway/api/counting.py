"""How many tokens a prompt has: the engine's own count where its model is loaded, a guess where it is not.

Never a load, never a wait, never a 5xx: agents count all the time, and a guess is better than none (T-01).
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from cortex_core.dialects.body import NOT_JSON, encode
from cortex_core.errors import CortexError, Dialect
from cortex_core.http import Receive, Request, Scope, Send, respond
from cortex_core.translate import responses
from cortex_gateway.api.desk import Desk
from cortex_gateway.api.errors import ALLOW_POST, refuse
from cortex_gateway.relay.call import Call

_TARGET = "/tokenize"


class _Counted(Struct):
    count: int


_counted = msgspec.json.Decoder(_Counted).decode


class Counting:
    """The handler of one dialect."""

    def __init__(self, desk: Desk, dialect: Dialect) -> None:
        self._desk = desk
        self._dialect = dialect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        desk, dialect = self._desk, self._dialect
        request_id = desk.ids.next()
        try:
            if scope["method"] != "POST":
                raise CortexError("method_not_allowed", f"{scope['method']} is not allowed here: POST")
            call = await desk.call(Request(scope, receive), send, dialect, _TARGET, request_id, counting=True)
        except CortexError as error:
            await refuse(send, error, dialect, request_id, ALLOW_POST if error.kind == "method_not_allowed" else ())
            return
        try:
            tokens = await self._tokens(call)
        finally:
            call.release()
        headers = [(b"x-request-id", request_id.encode())]
        if dialect is Dialect.ANTHROPIC_MESSAGES:
            headers.append((b"request-id", request_id.encode()))
            await respond(send, 200, encode({"input_tokens": tokens}), headers)
        else:
            await respond(send, 200, responses.count(tokens), headers)

    async def _tokens(self, call: Call) -> int:
        answer = await self._desk.relay.at_once(call)
        if answer is not None:
            try:
                return _counted(answer).count
            except NOT_JSON:
                pass
        return call.wanted.prompt_tokens

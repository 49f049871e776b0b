"""`POST /v1/chat/completions` and `/v1/completions`: from bytes to a call, and its errors in OpenAI's envelope."""

from __future__ import annotations

import time

from cortex_core.config.cortex import Gateway
from cortex_core.errors import CortexError, Dialect
from cortex_core.http import Receive, Request, Scope, Send
from cortex_gateway.api.errors import ALLOW_POST, Ids, refuse
from cortex_gateway.call import Call
from cortex_gateway.dispatcher import Dispatcher, Want
from cortex_gateway.held import Held
from cortex_gateway.policy.body import MAX_SESSION, read
from cortex_gateway.record import Record
from cortex_gateway.relay import Relay
from cortex_gateway.telemetry import Telemetry

CHUNKED_BYTES = 1 << 20
"""What a body of undeclared length is charged with. Real clients declare theirs (protocol rule 27)."""

_SESSIONS = frozenset(
    {b"x-claude-code-session-id", b"session-id", b"thread-id", b"x-session-id", b"x-session-affinity"}
)
"""Where the coding agents name their session (protocol rule 29)."""

_TARGETS = {Dialect.OPENAI_CHAT: "/v1/chat/completions", Dialect.OPENAI_COMPLETIONS: "/v1/completions"}


class Completions:
    """The handler of one dialect. Has no state of its own."""

    def __init__(
        self,
        dialect: Dialect,
        *,
        dispatcher: Dispatcher,
        relay: Relay,
        held: Held,
        telemetry: Telemetry,
        config: Gateway,
        ids: Ids,
    ) -> None:
        self._dialect = dialect
        self._target = _TARGETS[dialect]
        self._dispatcher = dispatcher
        self._relay = relay
        self._held = held
        self._telemetry = telemetry
        self._config = config
        self._ids = ids

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        arrived = time.monotonic()
        request_id = self._ids.next()
        try:
            if scope["method"] != "POST":
                raise CortexError("method_not_allowed", f"{scope['method']} is not allowed here: POST")
            call = await self._read(Request(scope, receive), send, request_id, arrived)
        except CortexError as error:
            self._telemetry.refused(self._dialect, error.kind)
            await refuse(
                send, error, self._dialect, request_id, ALLOW_POST if error.kind == "method_not_allowed" else ()
            )
            return
        try:
            await self._relay.answer(call)
        except CortexError as error:
            await refuse(send, error, self._dialect, request_id)

    async def _read(self, request: Request, send: Send, request_id: str, arrived: float) -> Call:
        """The call that a request is.

        Raises:
            CortexError: it is none, or there is no room for it.
        """
        declared, session = CHUNKED_BYTES, ""
        for name, value in request.headers:
            if name == b"content-length":
                declared = int(value)
            elif name in _SESSIONS:
                session = value[:MAX_SESSION].decode("latin-1")
        release = self._held.charge(declared)
        try:
            body = await request.body()
            release.grow_to(len(body))
            wanted = read(body, self._dialect)
            if wanted.model not in self._dispatcher.fleet.profiles:
                raise CortexError("model_not_found", f"the model `{wanted.model}` does not exist", param="model")
        except BaseException:
            release()
            raise
        want = Want(
            model=wanted.model,
            request_id=request_id,
            caller=request.client or "",
            session=session or wanted.session,
            prompt_head=wanted.head,
            tokens=wanted.tokens,
            streaming=wanted.stream,
            arrived=arrived,
            hold_s=self._config.hold_s if wanted.stream else self._config.hold_not_streaming_s,
        )
        record = Record(
            request_id=request_id, model=wanted.model, dialect=self._dialect, stream=wanted.stream, arrived=arrived
        )
        return Call(send, self._target, wanted, want, record, release)

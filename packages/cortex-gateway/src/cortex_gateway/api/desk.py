"""The way in for every request of a model: from bytes to a call, whatever its dialect."""

from __future__ import annotations

import time
from functools import partial

from cortex_core.config.cortex import Gateway
from cortex_core.errors import CortexError, Dialect
from cortex_core.fleet import Fleet
from cortex_core.http import Request, Scope, Send, read_once
from cortex_gateway.api.errors import Ids
from cortex_gateway.dispatch.dispatcher import Dispatcher, Want
from cortex_gateway.metrics.telemetry import Telemetry
from cortex_gateway.policy import form
from cortex_gateway.policy.aliases import Names, resolve
from cortex_gateway.policy.body import MAX_SESSION, Resolve, Target, Wanted, read
from cortex_gateway.policy.facts import facts, untold
from cortex_gateway.relay.call import Again, Call
from cortex_gateway.relay.held import Charge, Held
from cortex_gateway.relay.large import LARGE_BYTES, Large
from cortex_gateway.relay.record import Record
from cortex_gateway.relay.relay import Relay

CHUNKED_BYTES = 1 << 20
"""What a body of undeclared length is charged with. Real clients declare theirs (protocol rule 27)."""

_AUDIO = Dialect.OPENAI_AUDIO
_KNOWN_TARGETS = 1000  # names: there are patterns among the aliases, so clients may invent them

_SESSIONS = frozenset(
    {b"x-claude-code-session-id", b"session-id", b"thread-id", b"x-session-id", b"x-session-affinity"}
)
"""Where the coding agents name their session (protocol rule 29)."""


class Desk:
    """Shared by all handlers that answer with a model's words."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        relay: Relay,
        telemetry: Telemetry,
        ids: Ids,
        names: Names,
        config: Gateway,
        large: Large,
    ) -> None:
        self.relay = relay
        self.telemetry = telemetry
        self.ids = ids
        self._dispatcher = dispatcher
        self._names = names
        self._config = config
        self._large = large
        self._held = Held(config.max_held_mb << 20)
        self._fleet = dispatcher.fleet  # what `_targets` were read off
        self._targets: dict[str, Target] = {}  # by the name asked for
        self._resolves: dict[Dialect, Resolve] = {dialect: partial(self._target, dialect) for dialect in Dialect}

    def _target(self, dialect: Dialect, asked: str) -> Target:
        """The model that a name means.

        Raises:
            CortexError: model_not_found, in the words that the dialect's clients look for (E-04).
        """
        fleet = self._dispatcher.fleet
        if fleet is not self._fleet or len(self._targets) > _KNOWN_TARGETS:
            self._fleet = fleet
            self._targets.clear()
        known = self._targets.get(asked)
        if known is None:
            known = self._targets[asked] = self._find(fleet, asked, dialect)
        return known

    def _find(self, fleet: Fleet, asked: str, dialect: Dialect) -> Target:
        found = resolve(self._names, asked, fleet.profiles)
        if found is None:
            shown = asked[:100]
            anthropic = dialect is Dialect.ANTHROPIC_MESSAGES
            message = f"model: {shown}" if anthropic else f"the model `{shown}` does not exist"
            raise CortexError("model_not_found", message, param="model")
        model, engine = found
        profile = fleet.profiles[model]
        return Target(
            model=model,
            facts=facts(fleet, profile),
            untold=untold(fleet, profile),
            defaults=profile.defaults,
            adapter="" if engine == model else engine,
        )

    async def call(
        self,
        request: Request,
        send: Send,
        dialect: Dialect,
        target: str,
        request_id: str,
        *,
        counting: bool = False,
    ) -> Call:
        """The call that a request is. `target` is the engine's path for it.

        Raises:
            CortexError: it is none, or there is no room for it.
        """
        arrived = time.monotonic()
        declared, session = read_once(request.scope, _declared)
        release = self._held.charge(declared)
        again: Again | None = None
        try:
            if dialect is _AUDIO:
                wanted = await self._form(request, release)
            else:
                body = await request.body()
                release.grow_to(len(body))
                wanted = await self._read(body, dialect, counting=counting)
                if wanted.untold:  # then the load that it waits for tells more of its model
                    release.grow_to(len(body) + len(wanted.payload))
                    again = partial(self._read, body, dialect, counting=counting)
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
            request_id=request_id, model=wanted.model, dialect=dialect, stream=wanted.stream, arrived=arrived
        )
        return Call(send, target, wanted, want, record, release, again)

    async def _read(self, body: bytes, dialect: Dialect, *, counting: bool) -> Wanted:
        resolve = self._resolves[dialect]
        if len(body) >= LARGE_BYTES:
            return await self._large.read(body, dialect, resolve, counting=counting)
        return read(body, dialect, resolve, counting=counting)

    async def _form(self, request: Request, release: Charge) -> Wanted:
        reader = form.Reader(request.header("content-type") or "")

        def take(piece: bytes) -> None:
            reader.feed(piece)
            release.grow_to(len(reader.body))

        await request.pour(take)
        return reader.wanted(self._resolves[_AUDIO])


def _declared(scope: Scope) -> tuple[int, str]:
    """The size of the body in bytes, or what one of unknown size is charged with; and the session, if it has one."""
    size, session = CHUNKED_BYTES, ""
    for name, value in scope["headers"]:
        if name == b"content-length":
            size = int(value)
        elif name in _SESSIONS:
            session = value[:MAX_SESSION].decode("latin-1")
    return size, session

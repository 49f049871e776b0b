"""A client's request on its way through the gateway."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from cortex_core.errors import CortexError, Dialect
from cortex_core.gateway_api import MODEL_STATE_HEADER, NEURON_HEADER, REQUEST_ID_HEADER, SIMULATED_HEADER
from cortex_core.http import Send
from cortex_gateway.dispatch.dispatcher import Lease, Want
from cortex_gateway.policy.body import Wanted
from cortex_gateway.relay.record import Record
from cortex_gateway.relay.rendering import rendering

_REQUEST_ID, _NEURON = REQUEST_ID_HEADER.encode(), NEURON_HEADER.encode()
_MODEL_STATE, _SIMULATED = MODEL_STATE_HEADER.encode(), SIMULATED_HEADER.encode()
_COLD, _WARM = (_MODEL_STATE, b"cold"), (_MODEL_STATE, b"warm")
_MESSAGES = Dialect.ANTHROPIC_MESSAGES

Again = Callable[[], Awaitable[Wanted]]
"""Reads a request anew, with what is known by then. Raises CortexError."""


class Call:
    """One client's request on its way. `release` gives back what its body held; it is called once."""

    __slots__ = (
        "again",
        "answer",
        "dialect",
        "headers",
        "payload",
        "record",
        "release",
        "rendering",
        "send",
        "target",
        "want",
        "wanted",
    )

    def __init__(
        self,
        send: Send,
        target: str,
        wanted: Wanted,
        want: Want,
        record: Record,
        release: Callable[[], None],
        again: Again | None = None,
    ) -> None:
        self.send = send
        self.target = target
        self.wanted = wanted
        self.want = want
        self.record = record
        self.dialect: Dialect = record.dialect
        self.release = release
        self.rendering = rendering(wanted, record.dialect, record.request_id)
        self.answer: bytes | None = None  # a whole JSON answer
        self.headers: list[tuple[bytes, bytes]] = []  # of the answer
        self.payload = wanted.payload
        self.again = again

    async def read_again(self) -> None:
        """The load that it waited for has told what its model needs: what was translated for any model is so for it.

        Raises:
            CortexError: bad_request.
        """
        if self.again is not None:
            again, self.again = self.again, None
            self.wanted = await again()
            self.rendering = rendering(self.wanted, self.dialect, self.record.request_id)

    def leased(self, lease: Lease) -> None:
        record = self.record
        record.leased = lease.since
        record.neuron = lease.neuron.name
        record.cold = record.cold or lease.cold
        self.payload = self.wanted.payload_for(lease.replica.context)
        if lease.considered:
            record.places = tuple(candidate.place() for candidate in lease.considered)
        request_id = record.request_id.encode()
        self.headers = [
            (_REQUEST_ID, request_id),
            (_NEURON, lease.neuron.name.encode()),
            _COLD if record.cold else _WARM,
        ]
        if self.dialect is _MESSAGES:
            self.headers.append((b"request-id", request_id))
        if lease.replica.simulated:
            self.headers.append((_SIMULATED, b"true"))

    def last_words(self, error: CortexError | None = None) -> bytes:
        """The event that ends a stream as failed; without an error: because this server stops."""
        error = error or CortexError("shutting_down", "the gateway is shutting down")
        self.record.code = error.kind
        return self.rendering.failed(error)

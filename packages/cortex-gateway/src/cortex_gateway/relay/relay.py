"""One request to an engine, and its answer back: the byte path.

Nothing is sent to the client before the upstream's first event, or its whole JSON answer, is there: until then every
failure is a plain HTTP error, and what was provably not executed is decided again. After that bytes pass through, many
events in one write when they come together, and a failure is the dialect's in-band error and a cut connection: an
answer that ends cleanly is complete.

There is no time limit on an answer: the neuron watches its engines, and its own silence ends the streams
(`neurons/follow.py`). The client's leaving cancels the handler, which closes the upstream connection at once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Protocol

from cortex_core import neuron_api
from cortex_core.errors import CortexError
from cortex_core.http import BodyTooLarge, BrokenResponse, Client, ConnectFailed, Response, header_lines, respond
from cortex_core.neuron_api import Refusal
from cortex_gateway.dispatch.dispatcher import Dispatcher, Lease
from cortex_gateway.policy.body import Form
from cortex_gateway.policy.faults import decide_again, engine_error, read_refusal, told
from cortex_gateway.policy.usage import read_body
from cortex_gateway.relay.call import Call
from cortex_gateway.relay.moderation import Moderation
from cortex_gateway.relay.record import CLIENT_LEFT, Record
from cortex_gateway.relay.stream import pass_on

log = logging.getLogger(__name__)

EXPECT_BYTES = 64 << 10  # a larger body is sent only when the neuron has judged the head
MAX_ANSWER_BYTES = 64 << 20  # of a JSON answer, which is held until it is whole
MAX_REFUSAL_BYTES = 1 << 20
MOST_RETRIES = 1  # after a connection that could not be made
UNREACHABLE_S = 1.0  # how long a replica is left alone that could not be connected to
AT_ONCE_S = 2.0  # for what is asked of an engine by the way
AGAIN_S, AGAIN_MAX_S = 0.05, 1.0  # between decisions, when a neuron refuses again and again

_INSTANCE, _REPLICA = neuron_api.INSTANCE.encode(), neuron_api.REPLICA.encode()
_OWN = (
    "content-type: %b",
    f"{neuron_api.REQUEST_ID}: %b",
    f"{neuron_api.PRIORITY}: %d",
    f"{neuron_api.DEADLINE_S}: %d",
)
_LINES = ("%b" + "".join(f"{line}\r\n" for line in _OWN)).encode()
_KNOWN_REPLICAS = 1000
_JSON = b"application/json"


class _NotSent(Exception):
    """The request did not reach the neuron."""


class Paths(Protocol):
    """What the relay needs of the neurons."""

    def byte_path(self, neuron: str) -> Client: ...

    def suspect(self, neuron: str) -> None: ...


class Relay:
    """Answers calls over leases. `on_end` is told of each, however it ended."""

    def __init__(
        self, dispatcher: Dispatcher, neurons: Paths, *, gateway: str, token: str, on_end: Callable[[Record], None]
    ) -> None:
        self._dispatcher = dispatcher
        self._neurons = neurons
        self._on_end = on_end
        self._moderation = Moderation()
        headers = [
            (neuron_api.API_HEADER.encode(), b"%d" % neuron_api.API),
            (neuron_api.GATEWAY.encode(), gateway.encode()),
        ]
        if token:
            headers.append((b"authorization", b"Bearer " + token.encode()))
        self._lines = header_lines(headers)
        self._known: dict[tuple[str, str], bytes] = {}  # (instance, replica) → the lines of all requests to it

    async def answer(self, call: Call) -> None:
        """Serve it.

        Raises:
            CortexError: it cannot be served, and nothing has been sent.
        """
        record = call.record
        try:
            await self._decide(call)
            if call.answer is not None:
                await respond(call.send, 200, call.answer, call.headers)
        except CortexError as error:
            record.code = error.kind
            raise
        except asyncio.CancelledError:
            record.code = record.code or CLIENT_LEFT
            raise
        finally:
            record.ended = time.monotonic()
            call.release()
            self._on_end(record)

    async def at_once(self, call: Call) -> bytes | None:
        """The whole answer of a replica that is ready and has room. None: there is none, or it does not answer.

        It is not recorded, and neither waits nor loads.
        """
        if not self._dispatcher.has_room(call.want):
            return None
        with await self._dispatcher.lease(call.want) as lease:
            call.leased(lease)
            try:
                async with asyncio.timeout(AT_ONCE_S):
                    refusal = await self._exchange(call, lease)
            except (_NotSent, CortexError, TimeoutError):
                return None
        return call.answer if refusal is None else None

    async def _decide(self, call: Call) -> None:
        """Attempts, until one is answered or must not be repeated. Time bounds them: the wait for a lease ends."""
        unreachable = refused = 0
        while True:
            with await self._dispatcher.lease(call.want) as lease:
                if call.again is not None:
                    await call.read_again()
                call.leased(lease)
                try:
                    refusal = await self._exchange(call, lease)
                except _NotSent:
                    call.record.at_work = False
                    lease.failed()
                    refusal = None
                    unreachable += 1
                except CortexError as error:
                    if error.kind == "upstream_failed":
                        lease.failed()
                    raise
                else:
                    if refusal is None:
                        _learn(lease, call.record)
                        return
            if refusal is None:
                self._avoid(lease, unreachable)
                call.record.retries.append("unreachable")
                continue
            self._dispatcher.reject(lease, refusal)
            call.record.retries.append(refusal.code)
            if refused:
                await asyncio.sleep(min(AGAIN_S * 2**refused, AGAIN_MAX_S))
            refused += 1

    def _avoid(self, lease: Lease, times: int) -> None:
        """No connection could be made: look at the neuron now, and decide again without it, once."""
        self._neurons.suspect(lease.neuron.name)
        self._dispatcher.pause((lease.neuron.name, lease.replica.id), UNREACHABLE_S)
        if times > MOST_RETRIES:
            raise CortexError("upstream_failed", f"no connection to a neuron that serves {lease.want.model}")

    async def _exchange(self, call: Call, lease: Lease) -> Refusal | None:
        """One request under a lease. A refusal: it was not executed, and may be decided again.

        Raises:
            _NotSent: likewise, since no connection could be made.
            CortexError: it failed, and nothing has been sent to the client.
        """
        want = call.want
        left_s = max(1, int(want.arrived + want.hold_s - call.record.leased))
        own = (call.wanted.content_type, want.request_id.encode(), want.priority, left_s)
        to = (lease.neuron.instance_id, lease.replica.id)
        lines = _LINES % (self._known.get(to) or self._lines_to(to), *own)
        client = self._neurons.byte_path(lease.neuron.name)
        expect = len(call.payload) > EXPECT_BYTES
        call.record.at_work = True
        request = client.request("POST", call.target, lines=lines, body=call.payload, expect_continue=expect)
        try:
            if call.wanted.stream:
                return await pass_on(call, request, self._refused, self._moderation)
            async with request as upstream:
                if upstream.status != 200:
                    return await self._refused(call, upstream)
                call.answer = _whole(call, upstream, await upstream.read(MAX_ANSWER_BYTES))
                return None
        except BodyTooLarge:
            raise CortexError("upstream_failed", f"the answer is over {MAX_ANSWER_BYTES} bytes") from None
        except ConnectFailed as failed:
            raise _NotSent from failed
        except BrokenResponse as broken:
            if broken.executed == "no":
                raise _NotSent from broken
            raise CortexError("upstream_failed", "the connection to the engine broke before it answered") from broken

    def _lines_to(self, key: tuple[str, str]) -> bytes:
        if len(self._known) >= _KNOWN_REPLICAS:
            self._known.clear()
        told = header_lines([(_INSTANCE, key[0].encode()), (_REPLICA, key[1].encode())])
        lines = self._known[key] = self._lines + told
        return lines

    async def _refused(self, call: Call, upstream: Response) -> Refusal:
        call.record.at_work = False
        try:
            body = await upstream.read(MAX_REFUSAL_BYTES)
        except BodyTooLarge:
            body = b""
        refusal = read_refusal(body)
        if refusal is None:
            raise engine_error(body, call.dialect, upstream.status)
        if refusal.code == "unauthorized":
            log.error("neuron %s does not take our token: see [fleet] token_file", call.record.neuron)
        if decide_again(refusal):
            return refusal
        raise told(refusal)


def _whole(call: Call, upstream: Response, body: bytes) -> bytes:
    """The client's answer by the engine's. Raises CortexError: it is none."""
    if isinstance(call.wanted.answer, Form):
        kind = upstream.header(b"content-type") or _JSON
        if not kind.startswith(_JSON):
            call.headers.append((b"content-type", kind))
            return body
    said = read_body(body)
    if said.error is not None:
        raise engine_error(said.error, call.dialect)
    call.record.usage, call.record.finish_reason = said.usage, said.finish_reason
    return call.rendering.whole(body)


def _learn(lease: Lease, record: Record) -> None:
    """What the replica is told to be worth by a request that was answered, or broke off in the middle."""
    if record.code == "upstream_failed":
        lease.failed()
        return
    usage = record.usage
    tokens = usage.prompt_tokens + usage.completion_tokens if usage is not None else 0
    lease.succeeded(first_token_s=max(0.0, record.first_content - record.leased), tokens=tokens)

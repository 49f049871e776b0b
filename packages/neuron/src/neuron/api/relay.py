"""The byte path: a request to a replica's engine, its answer back, a lease held from head to last byte.

The head is judged before the body is read. Whatever has arrived from the engine leaves in one write. An engine that
dies before its answer begins is an error that says so; one that dies later breaks the connection to the gateway,
which must never look like a clean end.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from cortex_core.fleet import State
from cortex_core.http import BrokenResponse, ConnectFailed, EventStream, Request, Response, Send, respond
from cortex_core.neuron_api import DEADLINE_S, GATEWAY, INSTANCE, PRIORITY, REPLICA, REQUEST_ID
from neuron.api.requests import Executed
from neuron.supervisor.parts import Parts
from neuron.supervisor.refusals import Refused
from neuron.supervisor.replicas import Replicas
from neuron.supervisor.resident import Resident

BODY_LIMIT = 64 * 2**20
QUEUE_S = 60.0  # in a replica's queue, when the caller says nothing
ID_LIMIT = 200  # characters
PRIORITIES = frozenset("0123456789")
ADMINISTRATION = frozenset({"/v1/load_lora_adapter", "/v1/unload_lora_adapter"})  # of an engine: not for requests
PASSED_IN = frozenset({b"accept", b"traceparent", b"tracestate"})
KEPT_BACK = frozenset({b"connection", b"keep-alive", b"transfer-encoding", b"date", b"server"})


class Named(msgspec.Struct):
    """What is read of the body of a request that names no replica."""

    model: str


_named = msgspec.json.Decoder(Named)


class Relay:
    """Handles `POST /v1/…`."""

    def __init__(self, parts: Parts, replicas: Replicas) -> None:
        self._instance_id = parts.instance_id
        self._requests = parts.requests
        self._learned = parts.learned
        self._clock = parts.clock
        self._hub = parts.hub
        self._replicas = replicas
        self._made = 0

    async def __call__(self, request: Request, send: Send) -> None:
        """Raises Refused, with what became of the request and the present state, while nothing is answered yet."""
        if request.path in ADMINISTRATION:
            raise Refused("not_found", f"there is no {request.path}")
        self._check_instance(request.header(INSTANCE))
        body: bytes | None = None
        replica_id = request.header(REPLICA)
        if replica_id is not None:
            resident = self._replicas.get(replica_id)
        else:
            body = await request.body(BODY_LIMIT)
            resident = self._by_model(body)
        if resident is None:
            raise Refused(
                "not_loaded", f"there is no replica {(replica_id or '')[:ID_LIMIT]}", instance_id=self._instance_id
            )
        try:
            await self._leased(resident, request, body, send)
        except Refused as refused:
            view = (self._replicas.view(resident),)
            refused.refusal = msgspec.structs.replace(refused.refusal, replicas=view, instance_id=self._instance_id)
            raise

    def _check_instance(self, instance_id: str | None) -> None:
        if instance_id is not None and instance_id != self._instance_id:
            text = "the neuron was started anew since then"
            raise Refused("outrun", text, instance_id=self._instance_id)
        if self._replicas.closing:
            raise Refused("shutting_down", "the neuron ends", instance_id=self._instance_id)

    def _by_model(self, body: bytes) -> Resident:
        try:
            model = _named.decode(body).model
        except msgspec.DecodeError as error:
            raise Refused("bad_request", str(error), field="model") from error
        residents = self._replicas.serving(model)
        if not residents:
            raise Refused("not_loaded", f"{model[:ID_LIMIT]} is not loaded here", instance_id=self._instance_id)
        return next((r for r in residents if r.state is State.READY), residents[0])

    async def _leased(self, resident: Resident, request: Request, body: bytes | None, send: Send) -> None:
        gateway = request.header(GATEWAY) or ""
        if self._learned.cordoned:
            raise Refused("cordoned", f"the neuron is cordoned: {self._learned.cordon_reason}")
        request_id = self._request_id(request)
        self._requests.check(request_id)
        if not resident.gate.in_flight:
            resident.progressed_at = self._clock()  # what was before this request says nothing of the engine
        await resident.gate.enter(gateway, self._deadline_s(request))
        try:
            if body is None:
                body = await request.body(BODY_LIMIT)
            await self._execute(
                resident, request, self._requests.begin(request_id, gateway, resident.model), body, send
            )
        finally:
            resident.gate.leave()
            resident.idle_since = self._clock()
            resident.served = True
            if not resident.gate.demand:
                self._hub.beat_due.set()  # somebody may wait for its memory

    def _request_id(self, request: Request) -> str:
        given = request.header(REQUEST_ID)
        if given is None:
            self._made += 1
            return f"{self._instance_id}-own-{self._made}"
        if not given or len(given) > ID_LIMIT or not given.isprintable():
            raise Refused("bad_request", f"expected 1 to {ID_LIMIT} printable characters", field=REQUEST_ID)
        return given

    def _deadline_s(self, request: Request) -> float:
        given = request.header(DEADLINE_S)
        if given is None:
            return QUEUE_S
        try:
            deadline_s = float(given)
        except ValueError:
            deadline_s = -1.0
        if not 0 < deadline_s < 1e6:
            raise Refused("bad_request", "expected seconds, more than 0", field=DEADLINE_S)
        return min(deadline_s, QUEUE_S)

    async def _execute(self, resident: Resident, request: Request, executed: Executed, body: bytes, send: Send) -> None:
        client = resident.client
        if client is None:
            self._requests.cancel(executed)
            raise Refused("failed", f"the engine of {resident.model} is gone: {resident.reason}")
        self._learned.used(resident.model, resident.digest)
        body = with_priority(body, request.header(PRIORITY))
        headers = [(name, value) for name, value in request.headers if name in PASSED_IN]
        headers += [(b"content-type", _content_type(request)), (REQUEST_ID.encode(), executed.id.encode("latin-1"))]
        try:
            async with client.request("POST", _target(request), headers=headers, body=body) as response:
                resident.progressed_at = self._clock()
                await self._pass_on(resident, response, send)
        except ConnectFailed as error:
            self._requests.cancel(executed)
            raise Refused("engine_died", f"the engine of {resident.model} does not answer: {error}") from error
        except BrokenResponse as error:
            text = f"the engine of {resident.model} broke off: {resident.reason or error}"
            raise Refused("engine_died", text, executed=error.executed) from error
        finally:
            self._requests.end(executed)

    async def _pass_on(self, resident: Resident, response: Response, send: Send) -> None:
        headers = [(name, value) for name, value in response.headers if name not in KEPT_BACK]
        headers.append((b"x-cortex-replica", resident.id.encode()))
        data = await response.read_some()
        if response.complete and len(data) == int(response.header(b"content-length") or -1):
            return await respond(send, response.status, data, [h for h in headers if h[0] != b"content-length"])
        async with EventStream(send) as stream:
            await stream.start(response.status, headers)
            passage = _Passage(resident, response, stream, self._clock)
            passage.left = data
            try:
                while not response.ended:
                    await stream.write(passage.taken())
                    await response.pour(passage.take)
            except BrokenResponse:
                await stream.abort()
            else:
                await stream.end(passage.taken())
        return None


class _Passage:
    """Where an answer passes as it arrives, within one callback: its handler sleeps.

    It is woken for the end, and for a reader that is behind, for whom nothing more is taken from the engine.
    """

    __slots__ = ("_clock", "_resident", "_response", "_stream", "left")

    def __init__(self, resident: Resident, response: Response, stream: EventStream, clock: Callable[[], float]) -> None:
        self._resident, self._response, self._stream, self._clock = resident, response, stream, clock
        self.left = b""  # taken and not yet written

    def take(self, data: bytes) -> bool:
        """False: the handler is to go on."""
        self._resident.progressed_at = self._clock()
        if not self._response.complete and self._stream.push(data):
            return True
        self.left = data
        return False

    def taken(self) -> bytes:
        left, self.left = self.left, b""
        return left


def _content_type(request: Request) -> bytes:
    """JSON, unless the caller says something that curl does not say by itself."""
    given = request.header("content-type")
    return (
        b"application/json"
        if given is None or given == "application/x-www-form-urlencoded"
        else given.encode("latin-1")
    )


def with_priority(body: bytes, given: str | None) -> bytes:
    """The body with the request's place in the engine's queue: 0 to 9 and higher first with us, lower first there.

    It stands last: of a key that stands twice the last one counts, so no client can overtake with one of its own.
    """
    if given is None:
        return body
    if given not in PRIORITIES:
        raise Refused("bad_request", "expected 0 to 9", field=PRIORITY)
    stripped = body.rstrip()
    open_body = stripped[:-1]
    if not stripped.endswith(b"}") or open_body.rstrip() == b"{":
        return body  # a form, or nothing that an engine could execute
    return b'%b,"priority":%d}' % (open_body, 9 - int(given))


def _target(request: Request) -> str:
    query: bytes = request.scope["query_string"]
    target = request.raw_path + (b"?" + query if query else b"")
    return target.decode("latin-1")

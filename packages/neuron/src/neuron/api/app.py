"""Who may call what: paths, methods, the token, the version handshake. Everything else is in `neuron.api.api`."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Awaitable, Callable

import msgspec

from cortex_core.http import BodyTooLarge, Disconnected, Headers, Receive, Request, Scope, Send
from cortex_core.neuron_api import API, API_HEADER, RefusalBody, speaks
from neuron.api.api import Api, refuse
from neuron.supervisor.refusals import Refused

log = logging.getLogger(__name__)

Handler = Callable[[Request, Send], Awaitable[None]]
FOR_ALL = frozenset({"/version", "/health"})  # also for who has no token
OF_ENGINES = frozenset({"/tokenize", "/detokenize", "/classify", "/pooling"})  # requests outside /v1
API_LINE = (API_HEADER.encode(), str(API).encode())


class App:
    """ASGI.

    Args:
        token: of the fleet; empty: everybody is let in.
    """

    def __init__(self, api: Api, token: str) -> None:
        self._api = api
        self._token = token.encode()
        self._routes: dict[tuple[str, str], Handler] = {
            ("GET", "/version"): api.version,
            ("GET", "/health"): api.health,
            ("GET", "/discovery"): api.discovery,
            ("GET", "/models"): api.models,
            ("GET", "/events"): api.events,
            ("GET", "/finished"): api.finished,
            ("GET", "/metrics"): api.metrics,
            ("GET", "/v1/models"): api.served,
            ("POST", "/models/load"): api.load,
            ("POST", "/models/unload"): api.unload,
            ("POST", "/models/sleep"): api.sleep,
            ("POST", "/models/wake"): api.wake,
            ("POST", "/models/pin"): api.pin,
            ("POST", "/cordon"): api.cordon,
            ("POST", "/uncordon"): api.uncordon,
            ("POST", "/demand"): api.demand,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            handler = self._admitted(request)
            await handler(request, send)
        except Refused as refused:
            await refuse(send, refused)
        except BodyTooLarge as error:
            await refuse(send, Refused("body_too_large", str(error)))
        except Disconnected:
            log.debug("%s %s: the caller left", request.method, request.path)

    def _admitted(self, request: Request) -> Handler:
        """The request's handler, once it is known that the caller may use it."""
        if not speaks(request.header(API_HEADER)):
            theirs = (request.header(API_HEADER) or "")[:20]
            raise Refused("unsupported_api", f"{API_HEADER}: {theirs} is not spoken here, {API} is")
        handler = self._handler(request)
        if self._token and not self._knows_token(request):
            if request.path == "/health":
                return self._api.alive
            if request.path not in FOR_ALL:
                text = "the bearer token is missing or wrong: it is what [neuron] token_file of this neuron says"
                raise Refused("unauthorized", text, field="authorization")
        return handler

    def _handler(self, request: Request) -> Handler:
        path, method = request.path, request.method
        if method == "POST" and (path.startswith("/v1/") or path in OF_ENGINES):
            return self._api.relay
        parts = path.split("/")
        if len(parts) == 3 and parts[1] == "operations" and method == "GET":
            return self._api.operation
        if len(parts) == 4 and parts[1] == "operations" and parts[3] == "cancel" and method == "POST":
            return self._api.cancel
        handler = self._routes.get((method, path))
        if handler is not None:
            return handler
        others = [known for known, route in self._routes if route == path]
        if others:
            raise Refused("method_not_allowed", f"{path} wants {' or '.join(others)}")
        raise Refused("not_found", f"there is no {path[:200]}")

    def _knows_token(self, request: Request) -> bool:
        scheme, _, given = (request.header("authorization") or "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._token)


CODES = {413: "body_too_large", 503: "shutting_down"}


def render_error(status: int, message: str, _scope: Scope | None) -> tuple[Headers, bytes]:
    """What the server answers by itself, as refusals: its status stays, its code is the nearest of ours."""
    code = CODES.get(status, "internal" if status >= 500 else "bad_request")
    body = RefusalBody(error=Refused(code, message).refusal)
    return [(b"content-type", b"application/json"), API_LINE], msgspec.json.encode(body)

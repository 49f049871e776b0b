"""The gateway as one ASGI app: the hot paths by a lookup, everything else through Starlette."""

from __future__ import annotations

from collections.abc import Mapping

from cortex_core.config.cortex import Gateway
from cortex_core.errors import Dialect
from cortex_core.http import ASGIApp, Receive, Scope, Send
from cortex_gateway.api.about import About
from cortex_gateway.api.completions import Completions
from cortex_gateway.api.errors import Ids
from cortex_gateway.dispatcher import Dispatcher
from cortex_gateway.held import Held
from cortex_gateway.neurons import Neurons
from cortex_gateway.relay import Relay
from cortex_gateway.steering import Steering
from cortex_gateway.telemetry import Telemetry

_PREFIXES = ("", "/v1", "/v1/v1")
"""Users set base URLs with and without /v1, and some clients add their own (protocol H-09)."""
_ROUTES = {"/chat/completions": Dialect.OPENAI_CHAT, "/completions": Dialect.OPENAI_COMPLETIONS}


class App:
    def __init__(self, hot: Mapping[str, ASGIApp], cold: ASGIApp) -> None:
        self._hot = hot
        self._cold = cold

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        handler = self._hot.get(scope["path"], self._cold)
        await handler(scope, receive, send)


def build(
    config: Gateway,
    dispatcher: Dispatcher,
    neurons: Neurons,
    relay: Relay,
    telemetry: Telemetry,
    ids: Ids,
    *,
    version: str,
) -> App:
    """Everything that clients reach, wired."""
    held = Held(config.max_held_mb << 20)
    hot: dict[str, ASGIApp] = {}
    for path, dialect in _ROUTES.items():
        handler = Completions(
            dialect, dispatcher=dispatcher, relay=relay, held=held, telemetry=telemetry, config=config, ids=ids
        )
        hot.update({prefix + path: handler for prefix in _PREFIXES})
    return App(hot, About(dispatcher, Steering(dispatcher, neurons), version=version, ids=ids).app())

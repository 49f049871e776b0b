"""The gateway as one ASGI app: the hot paths by a lookup, everything else through Starlette."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping

from cortex_core.config.cortex import Gateway
from cortex_core.errors import Dialect
from cortex_core.http import ASGIApp, Receive, Scope, Send
from cortex_gateway.api.about import About
from cortex_gateway.api.completions import Completions
from cortex_gateway.api.counting import Counting
from cortex_gateway.api.desk import Desk
from cortex_gateway.api.errors import Ids
from cortex_gateway.api.watching import Watching
from cortex_gateway.dispatch.dispatcher import Dispatcher
from cortex_gateway.dispatch.steering import Steering
from cortex_gateway.metrics.telemetry import Telemetry
from cortex_gateway.neurons import Neurons
from cortex_gateway.policy.aliases import Names
from cortex_gateway.relay.large import Large
from cortex_gateway.relay.relay import Relay

_CHAT = "/v1/chat/completions"
_ROUTES: Mapping[str, tuple[Dialect, str]] = {
    "/v1/chat/completions": (Dialect.OPENAI_CHAT, _CHAT),
    "/v1/completions": (Dialect.OPENAI_COMPLETIONS, "/v1/completions"),
    "/v1/responses": (Dialect.OPENAI_RESPONSES, _CHAT),
    "/v1/messages": (Dialect.ANTHROPIC_MESSAGES, _CHAT),
    "/v1/embeddings": (Dialect.OPENAI_EMBEDDINGS, "/v1/embeddings"),
    "/v1/audio/transcriptions": (Dialect.OPENAI_AUDIO, "/v1/audio/transcriptions"),
    "/v1/audio/translations": (Dialect.OPENAI_AUDIO, "/v1/audio/translations"),
    "/v1/rerank": (Dialect.ENGINE, "/v1/rerank"),
    "/v2/rerank": (Dialect.ENGINE, "/v1/rerank"),
    "/v1/score": (Dialect.ENGINE, "/v1/score"),
    "/classify": (Dialect.ENGINE, "/classify"),
    "/pooling": (Dialect.ENGINE, "/pooling"),
    "/tokenize": (Dialect.ENGINE, "/tokenize"),
    "/detokenize": (Dialect.ENGINE, "/detokenize"),
}
"""What a model answers: path → dialect, and where the engine answers it."""
_COUNTED: Mapping[str, Dialect] = {
    "/v1/messages/count_tokens": Dialect.ANTHROPIC_MESSAGES,
    "/v1/responses/input_tokens": Dialect.OPENAI_RESPONSES,
}
_PREFIXES = ("/v1/v1/", "/anthropic/v1/")
"""Users set base URLs with and without /v1, and some clients add their own (protocol H-09)."""


class App:
    def __init__(self, hot: Mapping[str, ASGIApp], cold: ASGIApp) -> None:
        self._hot = hot
        self._cold = cold

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        handler = self._hot.get(scope["path"])
        if handler is None:
            scope = {**scope, "path": canonical(scope["path"])}
            handler = self._hot.get(scope["path"], self._cold)
        return handler(scope, receive, send)


def canonical(path: str) -> str:
    """The path that a client meant whose base URL says too much."""
    for prefix in _PREFIXES:
        if path.startswith(prefix):
            return "/v1/" + path.removeprefix(prefix)
    return path


def build(  # noqa: PLR0913 - each is a part of the whole
    config: Gateway,
    dispatcher: Dispatcher,
    neurons: Neurons,
    relay: Relay,
    telemetry: Telemetry,
    ids: Ids,
    large: Large,
    *,
    version: str,
    names: Names = Names(),  # noqa: B008 - immutable
) -> App:
    """Everything that clients reach, wired."""
    desk = Desk(dispatcher, relay, telemetry, ids, names, config, large)
    hot: dict[str, ASGIApp] = {path: Completions(desk, *route) for path, route in _ROUTES.items()}
    hot |= {path: Counting(desk, dialect) for path, dialect in _COUNTED.items()}
    hot["/v1/models/sse"] = Watching(dispatcher, ids)
    hot |= {path.removeprefix("/v1"): handler for path, handler in hot.items()}
    return App(hot, About(dispatcher, Steering(dispatcher, neurons, names), names, version=version, ids=ids).app())

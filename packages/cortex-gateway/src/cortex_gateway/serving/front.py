"""What clients meet first: certificate, names we answer to, limits. And how a scrape is answered."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from cortex_core.config import ConfigError, CortexConfig
from cortex_core.config.cortex import Tls
from cortex_core.http import (
    ASGIApp,
    HostGuard,
    Limits,
    Receive,
    Request,
    Scope,
    Send,
    own_names,
    respond,
    tls_context,
)
from cortex_gateway.api.errors import ServerErrors

METRICS_LIMITS = Limits(body_bytes=1024, connections=100)
_PATHS = ("/metrics", "/")


def guarded(app: ASGIApp, config: CortexConfig, address: str, errors: ServerErrors) -> ASGIApp:
    """For browsers that are made to ask: only by our own names (F63)."""
    names, any_address = own_names(address)
    return HostGuard(app, hosts={*config.gateway.hosts, *names}, any_address=any_address, errors=errors)


def ssl_context(tls: Tls) -> ssl.SSLContext | None:
    """None: in the clear.

    Raises:
        ConfigError: certificate or key cannot be used.
    """
    if not tls.certificate:
        return None
    try:
        return tls_context(tls.certificate, tls.key)
    except ValueError as error:
        raise ConfigError("[tls]", "", str(error)) from error


class Exposition:
    """The metrics port's app: Prometheus' text format, or OpenMetrics for who asks for it."""

    def __init__(self, metrics: Callable[[], Awaitable[Iterable[Metric]]]) -> None:
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        if request.path not in _PATHS:
            await respond(send, 404, b"metrics are at /metrics\n", content_type=b"text/plain")
        elif request.method not in ("GET", "HEAD"):
            await respond(send, 405, b"", [(b"allow", b"GET, HEAD")], b"text/plain")
        else:
            encode, kind = choose_encoder(request.header("accept") or "")
            registry = CollectorRegistry()
            registry.register(_Collected(await self._metrics()))
            await respond(send, 200, encode(registry), content_type=kind.encode())


class _Collected(Collector):
    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterable[Metric]:
        return self._metrics

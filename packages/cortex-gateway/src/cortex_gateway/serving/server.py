"""One gateway: one process, one TaskGroup that owns servers and background tasks.

A bug in a background task ends the process, and systemd starts it again: a gateway that answers while nobody follows
its neurons would be worse. SIGTERM and SIGINT drain; a second one does not wait.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from contextlib import AsyncExitStack
from importlib import metadata

from prometheus_client import generate_latest

from cortex_core.config import Catalogue, CortexConfig
from cortex_core.http import ASGIApp, Limits, Server, address_of, bind
from cortex_gateway.api.errors import Ids, ServerErrors
from cortex_gateway.app import build
from cortex_gateway.dispatch.discovery import Discovery
from cortex_gateway.dispatch.dispatcher import Dispatcher, Rules
from cortex_gateway.metrics.telemetry import Telemetry
from cortex_gateway.neurons import Neurons
from cortex_gateway.policy.aliases import Names
from cortex_gateway.policy.transitions import Event, empty_fleet
from cortex_gateway.relay.ends import Ends
from cortex_gateway.relay.large import Large
from cortex_gateway.relay.relay import Relay
from cortex_gateway.serving.front import METRICS_LIMITS, Exposition, guarded, ssl_context
from cortex_gateway.serving.life import Life, signals

log = logging.getLogger(__name__)


class _Stopped(Exception):
    """The servers have drained: the background tasks may end."""


async def serve(config: CortexConfig, catalogue: Catalogue, life: Life) -> None:
    """Serve until `life` stops, by a signal or otherwise, or until cancelled.

    Raises:
        OSError: an address cannot be listened on.
        ConfigError: certificate or key cannot be used.
        ExceptionGroup: a background task failed.
    """
    gateway, version, context = secrets.token_hex(4), _version(), ssl_context(config.tls)
    ids, telemetry = Ids(gateway), Telemetry(version)
    async with AsyncExitStack() as stack:
        listener = stack.enter_context(bind(config.gateway.listen))
        metrics_listener = stack.enter_context(bind(config.gateway.metrics_listen))
        addresses = address_of(listener), address_of(metrics_listener)
        stack.callback(lambda: life.ended(generate_latest(telemetry.registry)))
        ends = stack.enter_context(Ends(telemetry.ended))
        neurons = await stack.enter_async_context(
            Neurons(config.neurons, gateway=gateway, token=config.fleet.token, on_finished=ends.finished)
        )
        dispatcher = Dispatcher(
            empty_fleet([(n.name, n.endpoint) for n in config.neurons], catalogue.profiles),
            neurons,
            Rules(
                gateway=gateway,
                strategy=config.eviction.strategy,
                defrag_after=config.eviction.defrag_after_cycles,
                max_waiters=config.gateway.max_waiters,
            ),
            on_swap=telemetry.swapped,
        )
        telemetry.watch(dispatcher)
        relay = Relay(dispatcher, neurons, gateway=gateway, token=config.fleet.token, on_end=ends.ended)
        large = stack.enter_context(Large())
        app: ASGIApp = build(
            config.gateway, dispatcher, neurons, relay, telemetry, ids, large, version=version,
            names=Names(aliases=catalogue.aliases, default=catalogue.default),
        )  # fmt: skip
        errors = ServerErrors(ids)
        limits = Limits(body_bytes=config.gateway.max_body_mb << 20, keep_alive_s=120.0)
        app = guarded(app, config, addresses[0], errors)
        server = Server(app, listeners=[listener], limits=limits, errors=errors, ssl_context=context)
        exposition = guarded(Exposition(telemetry.metrics), config, addresses[1], errors)
        metrics = Server(exposition, listeners=[metrics_listener], limits=METRICS_LIMITS)
        stack.enter_context(signals(life.signalled))
        try:
            async with asyncio.TaskGroup() as tasks, metrics, server:
                tasks.create_task(dispatcher.run(), name="dispatcher")
                tasks.create_task(
                    neurons.run(_observer(dispatcher, catalogue, config.catalogue.discover)), name="neurons"
                )
                tasks.create_task(_beat(life, dispatcher, server), name="heartbeat")
                life.started(*addresses)
                await life.stop.wait()
                life.stopping()
                log.info("stopping: %d requests may take %g s to end", server.in_flight, config.gateway.drain_s)
                await server.drain(config.gateway.drain_s)
                raise _Stopped
        except* _Stopped:
            log.info("stopped")


async def _beat(life: Life, dispatcher: Dispatcher, server: Server) -> None:
    while True:
        up = [neuron.up for neuron in dispatcher.fleet.neurons.values()]
        life.alive(f"{sum(up)} of {len(up)} neurons up, {server.in_flight} requests")
        await asyncio.sleep(1.0)


def _observer(dispatcher: Dispatcher, catalogue: Catalogue, discover: bool) -> Callable[[Event], None]:
    """Without a models.toml the catalogue is what the neurons have."""
    if catalogue.models and not discover:
        return dispatcher.observe
    discovery = Discovery(catalogue)

    def observe(event: Event) -> None:
        dispatcher.observe(event)
        if (found := discovery.after(dispatcher.fleet, event)) is not None:
            dispatcher.observe(found)

    return observe


def _version() -> str:
    try:
        return metadata.version("cortex-gateway")
    except metadata.PackageNotFoundError:
        return "unknown"

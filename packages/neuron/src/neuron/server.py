"""The daemon: its parts put together, its one task group, its beginning and its end."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

from cortex_core.config import NeuronConfig
from cortex_core.http import Limits, Server, address_of, bind
from cortex_core.http import run as serve
from cortex_core.neuron_api import HEARTBEAT_LEAST_S, HEARTBEAT_S
from cortex_core.notify import Notifier
from neuron.api.api import Api
from neuron.api.app import App, render_error
from neuron.api.relay import BODY_LIMIT, Relay
from neuron.api.requests import Requests
from neuron.api.telemetry import Telemetry
from neuron.engine_logs import prune
from neuron.hardware.host import Host
from neuron.hardware.owners import Owners
from neuron.leftovers import sweep
from neuron.sizing.fit import expected_replicas
from neuron.sizing.learned import Learned
from neuron.supervisor.engine_keeper import EngineKeeper
from neuron.supervisor.events import Hub
from neuron.supervisor.operations import Operations
from neuron.supervisor.parts import Parts
from neuron.supervisor.replicas import Replicas
from neuron.supervisor.reports import Reports
from neuron.supervisor.standing import Standing
from neuron.supervisor.supervisor import Supervisor
from neuron.supervisor.watchdog import Watchdog
from neuron.supervisor.work import Work

log = logging.getLogger(__name__)

LOOK_S = 2.0  # between two looks at the host
WATCH_S = 0.5  # between two looks of the watchdog
WRITE_S = 1.0  # between two looks at whether there is something to write
USES_EVERY = 30  # writes: uses may be lost, and change with every request
PRUNE_S = 60.0  # between two looks at the engines' logs
GRACE_S = 5.0  # for engines at the end, after their requests have drained


class Neuron:
    """One daemon. `run` serves until `stop`; then it drains and ends everything it started."""

    def __init__(self, config: NeuronConfig, listener: socket.socket | None = None) -> None:
        self.config = config
        self.name = config.neuron.name or socket.gethostname().partition(".")[0]
        self.instance_id = secrets.token_hex(4)
        self._listener = listener
        self._stop: asyncio.Event = asyncio.Event()
        self.listening = asyncio.Event()
        self.address = ""

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    def stop(self) -> None:
        self._stop.set()

    async def run(self) -> None:
        table = self.config.neuron
        prepare_folders(Path(table.run_dir), Path(table.state_dir))
        listener = self._listener or bind(table.listen)
        self.address = address_of(listener)
        clock = asyncio.get_running_loop().time
        notifier = Notifier()
        async with asyncio.TaskGroup() as group:
            daemon = Daemon(self, group)
            limits = Limits(body_bytes=BODY_LIMIT)
            async with Server(daemon.app, listeners=[listener], limits=limits, errors=render_error) as server:
                notifier.ready()
                self.listening.set()
                log.info("neuron %s listens on %s (%s)", self.name, self.address, daemon.describe())
                began = clock()
                keeping = group.create_task(daemon.keep(notifier), name="keep")
                await self._stop.wait()
                notifier.stopping()
                daemon.replicas.closing = True
                daemon.hub.close()
                log.info("draining %d requests", server.in_flight)
                await server.drain(self.config.engine.drain_s)
            keeping.cancel()
            await daemon.close()
            log.info("ended after %.0f s", clock() - began)


class Daemon:
    """Everything inside one neuron, wired once."""

    def __init__(self, neuron: Neuron, group: asyncio.TaskGroup) -> None:
        config = neuron.config
        clock = asyncio.get_running_loop().time

        def spawn(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
            return group.create_task(work)

        self.hub = Hub()
        self.learned = Learned(Path(config.neuron.state_dir))
        self.host = Host(config)
        self.owners = Owners(config, spawn)
        parts = Parts(
            config=config,
            name=neuron.name,
            instance_id=neuron.instance_id,
            host=self.host,
            owners=self.owners,
            learned=self.learned,
            hub=self.hub,
            requests=Requests(clock),
            operations=Operations(clock, self.hub.operation),
            spawn=spawn,
            clock=clock,
        )
        self.replicas = Replicas(parts)
        keeper = EngineKeeper(parts, self.replicas)
        self.supervisor = Supervisor(parts, self.replicas, Work(parts, self.replicas, keeper))
        self.standing = Standing(parts, self.replicas, self.supervisor)
        self.reports = Reports(parts, self.replicas, self.standing)
        self.telemetry = Telemetry(self.host, self.replicas)
        self.watchdog = Watchdog(parts, self.replicas, keeper)
        relay = Relay(parts, self.replicas)
        api = Api(
            reports=self.reports,
            supervisor=self.supervisor,
            standing=self.standing,
            replicas=self.replicas,
            operations=parts.operations,
            hub=self.hub,
            relay=relay,
            telemetry=self.telemetry,
        )
        self.app = App(api, config.neuron.token)
        self._logs = Path(config.neuron.state_dir) / "logs"
        self._writes = 0

    def describe(self) -> str:
        engine = self.owners.describe()[0]
        return "simulated engine" if engine.simulated else f"engine {engine.version or 'not installed'}"

    async def keep(self, notifier: Notifier) -> None:
        """Everything that happens by itself, each at its own pace: a driver that hangs must not stop the heartbeat."""
        await self.host.look()
        self._begin()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._beat(notifier), name="heartbeat")
            group.create_task(self._every(LOOK_S, self._look), name="look")
            group.create_task(self._every(WATCH_S, self.watchdog.look), name="watchdog")
            group.create_task(self._every(WRITE_S, self._write), name="write")
            group.create_task(self._every(PRUNE_S, self._prune), name="prune")

    async def _every(self, pause_s: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(pause_s)
            await work()

    async def _beat(self, notifier: Notifier) -> None:
        while True:
            self.standing.keep_loaded()
            if self.hub.snapshot_due:
                self.hub.snapshot_due = False
                self.hub.snapshot(self.reports.report)
            self.hub.heartbeat(self.reports.gauges())
            notifier.alive(self._status())
            self.hub.beat_due.clear()
            await asyncio.sleep(HEARTBEAT_LEAST_S)
            try:
                async with asyncio.timeout(HEARTBEAT_S - HEARTBEAT_LEAST_S):
                    await self.hub.beat_due.wait()
            except TimeoutError:
                pass

    async def _look(self) -> None:
        if await self.host.look():
            self.hub.snapshot_due = True

    async def _write(self) -> None:
        """What was learned at once, mere uses now and then."""
        self._writes += 1
        if self.learned.dirty or (self.learned.stale and self._writes % USES_EVERY == 0):
            await asyncio.to_thread(self.learned.write, self.learned.taken())

    async def _prune(self) -> None:
        in_use = [resident.spec.log for resident in self.replicas if resident.spec is not None]
        await asyncio.to_thread(prune, self._logs, in_use)

    def _begin(self) -> None:
        for problem in self.host.problems():
            log.warning("%s", problem)
        if self.owners.problem:
            log.warning("%s", self.owners.problem)
        devices = self.host.devices({})
        self.owners.replicas_expected = expected_replicas(self.host.checkpoints.values(), devices)
        self.owners.prepare(tuple(device.id for device in devices))

    def _status(self) -> str:
        models = ", ".join(f"{r.model} {r.state.value}" for r in self.replicas)
        return models or "no model loaded"

    async def close(self) -> None:
        await self.owners.close(GRACE_S)
        for resident in list(self.replicas):
            if resident.work is not None:
                resident.work.cancel()
        await asyncio.to_thread(self.learned.write, self.learned.taken())
        self.host.close()


def prepare_folders(run_dir: Path, state_dir: Path) -> None:
    """Make them, and remove what an earlier run left. Engines' sockets are open to all, so their folder is ours."""
    for folder in (run_dir, state_dir, state_dir / "logs"):
        folder.mkdir(parents=True, exist_ok=True)
    run_dir.chmod(0o700)
    prune(state_dir / "logs", ())
    sweep(run_dir)


def run(config: NeuronConfig) -> None:
    """Serve until SIGTERM or SIGINT; a second signal ends at once."""

    async def main() -> None:
        neuron = Neuron(config)
        loop = asyncio.get_running_loop()

        def on_signal(number: int) -> None:
            if neuron.stopping:
                os._exit(128 + number)
            neuron.stop()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal, number)
        await neuron.run()

    serve(main())

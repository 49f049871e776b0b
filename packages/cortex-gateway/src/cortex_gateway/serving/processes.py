"""`cortex serve --processes N`: so many whole gateways on one port, and their parent.

The parent binds a listening socket for each (SO_REUSEPORT: the kernel spreads connections over them) and keeps them
open, so that a gateway which dies, or is told to end, refuses nobody: what waits in its socket is served by its
replacement. The parent itself serves the metrics of all as one. A child that is told to end leaves its last counts in a
file; of one that dies, those since the last scrape die with it.

Between the parent and a child lies one socket (see `child`): the setup goes over it, then only ends of sending.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import sys
import tempfile
from asyncio.subprocess import Process
from collections.abc import Iterable
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import msgspec
from msgspec import structs
from prometheus_client.core import Metric

from cortex_core.config import Catalogue, CortexConfig
from cortex_core.http import BodyTooLarge, BrokenResponse, Client, ConnectFailed, Server, address_of, bind
from cortex_gateway.api.errors import Ids, ServerErrors
from cortex_gateway.metrics.merged import Report, merged, metrics, read, totals
from cortex_gateway.serving.child import SERVES, SIZE_BYTES, Setup
from cortex_gateway.serving.front import METRICS_LIMITS, Exposition, guarded, ssl_context
from cortex_gateway.serving.life import Life, signals

log = logging.getLogger(__name__)

ASK_S = 2.0  # for a child's metrics; one that takes longer is told by its last ones
MAX_METRICS_BYTES = 64 << 20
STEADY_S = 10.0  # a child that served so long is replaced without a pause
PAUSE_S, PAUSE_MAX_S = 0.25, 5.0
GRACE_S = 5.0  # beyond drain_s, before children are killed


async def serve_processes(config: CortexConfig, catalogue: Catalogue, life: Life) -> None:
    """Serve until `life` stops.

    Raises:
        OSError: an address cannot be listened on.
        ConfigError: certificate or key cannot be used.
    """
    ssl_context(config.tls)  # a mistake is told once, and by the parent
    async with AsyncExitStack() as stack:
        listeners = _bind(config.gateway.listen, config.gateway.processes)
        stack.callback(_close, listeners)
        metrics_listener = stack.enter_context(bind(config.gateway.metrics_listen))
        addresses = address_of(listeners[0]), address_of(metrics_listener)
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="cortex-"))
        children = Children(config, catalogue, folder, life, addresses)
        errors = ServerErrors(Ids(secrets.token_hex(4)))
        app = guarded(Exposition(children.metrics), config, addresses[1], errors)
        stack.enter_context(signals(children.signalled))
        async with Server(app, listeners=[metrics_listener], limits=METRICS_LIMITS), asyncio.TaskGroup() as tasks:
            beating = tasks.create_task(_beat(life, children), name="heartbeat")
            keeping = [tasks.create_task(children.keep(listener)) for listener in listeners]
            await life.stop.wait()
            life.stopping()
            log.info("stopping: requests may take %g s to end", config.gateway.drain_s)
            _close(listeners)
            children.drain()
            await asyncio.wait(keeping, timeout=config.gateway.drain_s + GRACE_S)
            children.kill()
            beating.cancel()
        log.info("stopped")


def _bind(address: str, processes: int) -> list[socket.socket]:
    """A listener for each; where the kernel cannot spread them (unix sockets, inherited ones) all share one."""
    if address.startswith(("unix:", "fd:")):
        shared = bind(address)
        return [shared] * processes
    listeners = [bind(address, reuse_port=True)]
    try:
        while len(listeners) < processes:
            listeners.append(bind(address_of(listeners[0]), reuse_port=True))
    except OSError:
        _close(listeners)
        raise
    return listeners


def _close(listeners: Iterable[socket.socket]) -> None:
    for listener in listeners:
        listener.close()


async def _beat(life: Life, children: Children) -> None:
    while True:
        life.alive(f"{children.serving} processes serve")
        await asyncio.sleep(1.0)


class Child:
    """A gateway's process, and what it last said of itself."""

    def __init__(self, process: Process, control: socket.socket, metrics: socket.socket, counts: Path) -> None:
        self.process = process
        self.counts = counts
        self.serves = False
        self.report: Report = {}
        self._control = control
        self._metrics = metrics
        self._client = Client(address_of(metrics))

    async def set_up(self, setup: Setup) -> bool:
        """Tell it, and wait until it serves; False: it ended before."""
        data = msgspec.msgpack.encode(setup)
        with contextlib.suppress(ConnectionError):
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(self._control, len(data).to_bytes(SIZE_BYTES) + data)
            self.serves = await loop.sock_recv(self._control, 1) == SERVES
        return self.serves

    async def accepts_no_more(self) -> None:
        """Until it drains, or is gone."""
        with contextlib.suppress(ConnectionError):
            await asyncio.get_running_loop().sock_recv(self._control, 1)
        self.serves = False

    def drain(self) -> None:
        with contextlib.suppress(OSError):  # it is gone
            self._control.shutdown(socket.SHUT_WR)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    async def ask(self) -> None:
        """Renew `report`, if it answers in time."""
        try:
            async with asyncio.timeout(ASK_S), self._client.request("GET", "/metrics") as response:
                self.report = read((await response.read(MAX_METRICS_BYTES)).decode())
        except (TimeoutError, ConnectFailed, BrokenResponse, BodyTooLarge) as error:
            log.warning("gateway process %d does not tell its metrics: %s", self.process.pid, error)

    async def ended(self) -> int:
        """Its status, once it is gone, and has left its last counts if it could."""
        status = await self.process.wait()
        with contextlib.suppress(FileNotFoundError):
            self.report = read(self.counts.read_text())
            self.counts.unlink()
        return status

    async def close(self) -> None:
        await self._client.close()
        self._metrics.close()
        self._control.close()


class Children:
    """Every gateway process: those that serve, and those that still drain."""

    def __init__(
        self, config: CortexConfig, catalogue: Catalogue, folder: str, life: Life, addresses: tuple[str, str]
    ) -> None:
        self._config = config
        self._catalogue = catalogue
        self._folder = folder
        self._life = life
        self._addresses = addresses
        self._all_served = False
        self._alive: dict[Child, None] = {}  # oldest first: its picture of the fleet is the fullest
        self._made = 0
        self._past: Report = {}  # what those have counted that are gone

    @property
    def serving(self) -> int:
        return sum(child.serves for child in self._alive)

    async def keep(self, listener: socket.socket) -> None:
        """One gateway that serves on this listener, until all shall stop and each of it has ended."""
        loop, stop, pause_s = asyncio.get_running_loop(), self._life.stop, 0.0
        async with asyncio.TaskGroup() as burials:
            while not stop.is_set():
                began = loop.time()
                try:
                    child, setup = await self._start(listener)
                except OSError as error:  # no memory, no descriptors: perhaps for a while
                    log.error("no gateway process can be started: %s", error)
                else:
                    burials.create_task(self._bury(child), name=f"gateway {child.process.pid}")
                    await self._attend(child, setup)
                if stop.is_set():
                    return
                pause_s = 0.0 if loop.time() - began >= STEADY_S else min(max(PAUSE_S, 2 * pause_s), PAUSE_MAX_S)
                log.warning("a gateway process accepts no more; the next one starts in %g s", pause_s)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await stop.wait()

    def drain(self) -> None:
        for child in self._alive:
            child.drain()

    def kill(self) -> None:
        for child in self._alive:
            child.kill()

    def signalled(self) -> None:
        if self._life.stop.is_set():
            self.kill()
        self._life.signalled()

    async def metrics(self) -> Iterable[Metric]:
        await asyncio.gather(*(child.ask() for child in self._alive if child.serves))
        return metrics(merged([*(child.report for child in self._alive), self._past]))

    async def _start(self, listener: socket.socket) -> tuple[Child, Setup]:
        self._made += 1
        counts = Path(self._folder, f"{self._made}.counts")
        with ExitStack() as opened:
            metrics_listener = opened.enter_context(bind(f"unix:{self._folder}/{self._made}"))
            fds = listener.fileno(), metrics_listener.fileno()
            ours, theirs = map(opened.enter_context, socket.socketpair())
            ours.setblocking(False)
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "cortex_gateway.serving.child"),
                stdin=theirs.fileno(),
                pass_fds=fds,
                start_new_session=True,  # a terminal's Ctrl-C is for the parent alone
                env={name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"},
            )
            theirs.close()
            opened.pop_all()
        child = Child(process, ours, metrics_listener, counts)
        self._alive[child] = None
        gateway = structs.replace(
            self._config.gateway, listen=f"fd:{fds[0]}", metrics_listen=f"fd:{fds[1]}", processes=1
        )
        return child, Setup(structs.replace(self._config, gateway=gateway), self._catalogue, str(counts))

    async def _attend(self, child: Child, setup: Setup) -> None:
        """From its start until it accepts no more."""
        if self._life.stop.is_set():
            child.drain()
        if await child.set_up(setup):
            self._look()
            await child.accepts_no_more()

    async def _bury(self, child: Child) -> None:
        status = await child.ended()
        if status:
            log.warning("gateway process %d ended with %d", child.process.pid, status)
        del self._alive[child]
        self._past = merged([self._past, totals(child.report)])
        await child.close()

    def _look(self) -> None:
        """The first time that all serve is when we do."""
        if not self._all_served and self.serving == self._config.gateway.processes:
            self._all_served = True
            self._life.started(*self._addresses)

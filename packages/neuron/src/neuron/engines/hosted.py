"""An engine host as the daemon sees it: what it tells, and how it ends."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

from msgspec import structs

from cortex_core.http import BodyTooLarge, BrokenResponse, Client, ConnectFailed
from neuron.engines import events
from neuron.engines.base import Ended, EngineFailed, Facts, Finished, LoadSpec, Progress
from neuron.leftovers import remove_shared_memory
from neuron.zygote import wire
from neuron.zygote.client import Zygote, ZygoteGone

STOP_S = 3.0  # from "end now" to force
LAST_WORDS_S = 0.2  # from "end now" to force, where nothing can be hoped for
KILL_S = 5.0  # from force to the zygote's own end: a process that survives that hangs in the kernel
_READ = 64 * 1024
_WORDS = 64 * 1024  # bytes of an engine host's answer to them


class HostedEngine:
    """One replica's process group. Made by `DeviceOwner`; the supervisor sees it as an `Engine`."""

    def __init__(
        self,
        spec: LoadSpec,
        zygote: Zygote,
        lock: asyncio.Lock,
        on_progress: Callable[[Progress], None],
        on_finished: Callable[[Finished], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._spec = spec
        self._zygote = zygote
        self._lock = lock
        self._on_progress = on_progress
        self._on_finished = on_finished
        self._serving: asyncio.Future[Facts] = self._loop.create_future()
        self._ended: asyncio.Future[Ended] = self._loop.create_future()
        self._pid = 0
        self._phase = "fork"
        self._failure: events.Failure | None = None
        self._weights_bytes = 0
        self._asked = False
        self._events = -1
        self._rest = b""
        self._orphaned = ""  # why its zygote is gone, once it is

    @property
    def socket(self) -> Path:
        return self._spec.socket

    @property
    def facts(self) -> Facts:
        return self._serving.result()

    @property
    def replica(self) -> str:
        return self._spec.replica

    async def ended(self) -> Ended:
        return await asyncio.shield(self._ended)

    def start(self) -> None:
        """Have it forked. Raises EngineFailed."""
        events.sockets_folder(self._spec.socket).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._spec.socket.unlink(missing_ok=True)
        self._events, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(write, True)
        log = os.open(self._spec.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o640)
        self._loop.add_reader(self._events, self._read)
        try:
            request = events.encode_request(self._spec)
            self._zygote.send(wire.Fork(self.replica, request), [log, write])
        except ZygoteGone as gone:
            self._finish(str(gone))
            raise EngineFailed("fork", str(gone), "device") from gone
        finally:
            os.close(log)
            os.close(write)

    async def serving(self) -> Facts:
        """Wait until it serves. Cancelled or failed, nothing of it is left.

        Raises:
            EngineFailed: with the first cause that any of its processes told.
        """
        try:
            await asyncio.wait((self._serving, self._ended), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:  # also in the moment in which it has come to serve: nobody will ask for it
            await self._force()
            raise
        if self._ended.done():
            failure = self._failure
            if failure is None:
                words = f"{self._ended.result().reason}; its log is {self._spec.log}"
                raise EngineFailed(self._phase, words, "model", told=False)
            raise EngineFailed(failure.phase, failure.message, failure.scope)
        return self._serving.result()

    async def sleep(self, level: int) -> None:
        await self._tell(events.SLEEP, level)

    async def wake(self, level: int) -> None:
        await self._tell(events.WAKE, level)

    async def _tell(self, path: str, level: int) -> None:
        client = Client(f"unix:{self.socket}")
        try:
            async with client.request("POST", f"{path}?level={level}") as response:
                said = await response.read(_WORDS)
                if response.status >= 300:
                    raise EngineFailed("sleep", f"{path} is answered with {response.status} {said[:500]!r}")
        except (ConnectFailed, BrokenResponse, BodyTooLarge) as error:
            raise EngineFailed("sleep", f"{path}: {error}") from error
        finally:
            await client.close()

    async def close(self, grace_s: float) -> None:
        if self._ended.done():
            return
        async with self._lock:
            await self.end(grace_s)

    async def kill(self) -> None:
        """By force, but with a moment for a host whose core hangs to tell what its requests have used."""
        try:
            if not self._ended.done():
                await self._ends_within(LAST_WORDS_S, signal.SIGINT)
        finally:
            await self._force()

    async def end(self, grace_s: float) -> None:
        """`close` without waiting for its device's turn: SIGTERM lets it finish, SIGINT cuts it short, SIGKILL ends it.

        Cancelling this forces the end.
        """
        self._asked = True
        try:
            if grace_s > 0 and await self._ends_within(grace_s, signal.SIGTERM):
                return
            if await self._ends_within(STOP_S, signal.SIGINT):
                return
        finally:
            await self._force()

    async def _force(self) -> None:
        if self._ended.done() or await self._ends_within(KILL_S, signal.SIGKILL, group=True):
            return
        self._zygote.kill()
        await self.ended()

    async def _ends_within(self, timeout_s: float, number: int, *, group: bool = False) -> bool:
        try:
            self._zygote.send(wire.Signal(self.replica, number, group))
        except ZygoteGone:
            timeout_s = KILL_S  # its processes die with it
        await asyncio.wait((self._ended,), timeout=timeout_s)
        return self._ended.done()

    # What the zygote and the host tell

    def forked(self, pid: int) -> None:
        self._pid = pid

    def exited(self, code: int) -> None:
        """All its processes are gone: what is in the pipe is all there will be."""
        self._read()
        self._finish(_describe(code), clean=self._asked and code == 0)

    def orphaned(self, reason: str) -> None:
        """Its zygote is gone, and its processes with it: the kernel kills them; the pipe ends with the last one."""
        self._orphaned = reason
        self._read()
        if self._events == -1:
            self._finish(reason)
        else:
            self._loop.call_later(KILL_S, self._finish, reason)

    def _read(self) -> None:
        while self._events != -1:
            try:
                data = os.read(self._events, _READ)
            except BlockingIOError:
                return
            if not data:
                self._close_events()
                if self._orphaned:
                    self._finish(self._orphaned)
                return
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                self._take(events.decode(line))

    def _take(self, event: events.Event) -> None:
        if event.finished is not None:
            self._on_finished(event.finished)
        elif event.progress is not None:
            self._phase = event.progress.phase
            if not self._serving.done():
                self._on_progress(event.progress)
        elif event.failure is not None:
            self._failure = self._failure or event.failure
        elif event.serving is not None and not self._serving.done():
            self._on_progress(Progress(phase="serving", done=1.0))
            self._serving.set_result(structs.replace(event.serving, weights_bytes=self._weights_bytes))
        elif event.weights_bytes is not None:
            self._weights_bytes += event.weights_bytes

    def _close_events(self) -> None:
        if self._events != -1:
            self._loop.remove_reader(self._events)
            os.close(self._events)
            self._events = -1

    def _finish(self, reason: str, *, clean: bool = False) -> None:
        if self._ended.done():
            return
        self._close_events()
        self._spec.socket.unlink(missing_ok=True)
        shutil.rmtree(events.sockets_folder(self._spec.socket), ignore_errors=True)
        if self._pid:
            remove_shared_memory(self._pid)
        cause = self._failure.message if self._failure is not None and not clean else ""
        self._ended.set_result(Ended(clean=clean, reason=f"{cause} ({reason})" if cause else reason))


def _describe(code: int) -> str:
    if code >= 0:
        return f"the engine host ended with exit code {code}"
    return f"the engine host was ended by {signal.Signals(-code).name}"

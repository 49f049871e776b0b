"""The daemon's end of a zygote: start it, hear it, and know when it is gone."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from neuron.zygote import wire

LAST_WORDS = 600  # bytes of its log, where it ended without a reason


class ZygoteGone(Exception):
    """The zygote has ended, or never came to be ready."""


class Zygote:
    """One zygote process. Reports arrive through `on_report`, on the loop; `ready` and `gone` are futures."""

    def __init__(self, on_report: Callable[[wire.Report], None]) -> None:
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[wire.Ready] = loop.create_future()
        self.gone: asyncio.Future[str] = loop.create_future()  # why, in words
        self.preloading = wire.Preloading(0, 1, "interpreter")
        self.pid = 0
        self.ready_at: float | None = None  # monotonic
        self._loop = loop
        self._on_report = on_report
        self._sock: socket.socket | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._unusable = ""

    async def start(self, python: str, setup: wire.Setup, environment: Mapping[str, str], log: Path) -> None:
        """Start it. It leads a process group of its own at once, so that no terminal signal reaches it."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, _emptied(log) as output:
            arguments = [str(theirs.fileno()), str(os.getpid()), msgspec.json.encode(setup).decode()]
            self._process = await asyncio.create_subprocess_exec(
                python, "-m", "neuron.zygote", *arguments,
                stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output,
                pass_fds=[theirs.fileno()], env=dict(environment),
            )  # fmt: skip
        self.pid = self._process.pid
        self._log = log
        ours.setblocking(False)
        self._sock = ours
        self._loop.add_reader(ours.fileno(), self._read)

    def _read(self) -> None:
        while self._sock is not None:
            try:
                data, _ = wire.receive(self._sock)
            except BlockingIOError:
                return
            except ConnectionError:
                data = b""
            if not data:
                self._close_socket()
                return
            self._take(wire.decode_report(data))

    def _take(self, report: wire.Report) -> None:
        match report:
            case wire.Preloading():
                self.preloading = report
            case wire.Ready():
                self.ready_at = time.monotonic()
                self.ready.set_result(report)
            case wire.Unusable():
                self._unusable = report.reason
        self._on_report(report)

    def send(self, command: wire.Command, fds: Sequence[int] = ()) -> None:
        """Raises ZygoteGone. Commands are few and small: a full socket means a zygote that hangs, which is ended."""
        if self._sock is None:
            raise ZygoteGone("the zygote has ended")
        try:
            wire.send(self._sock, command, fds)
        except BlockingIOError:
            self.kill()
            raise ZygoteGone("the zygote hangs") from None
        except ConnectionError:
            raise ZygoteGone("the zygote has ended") from None

    def kill(self) -> None:
        """End it by force, and with it everything it has forked."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    def close(self) -> None:
        """Let it end: it kills what it has forked, then itself."""
        self._close_socket()

    def _close_socket(self) -> None:
        if self._sock is not None:
            self._loop.remove_reader(self._sock.fileno())
            self._sock.close()
            self._sock = None

    async def wait(self) -> str:
        """Wait for its end; returns why it ended. The socket's last words are read first."""
        process = self._process
        if process is None:
            raise RuntimeError("wait before start")
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            self.kill()
            await process.wait()
            raise
        self._read()
        self._close_socket()
        reason = self._unusable or self._describe(code)
        if not self.ready.done():
            self.ready.set_exception(ZygoteGone(reason))
            self.ready.exception()  # seen: nobody may be waiting
        self.gone.set_result(reason)
        return reason

    def _describe(self, code: int) -> str:
        if code < 0:
            return f"the zygote was ended by {signal.Signals(-code).name}"
        with self._log.open("rb") as log:
            log.seek(max(0, self._log.stat().st_size - LAST_WORDS))
            words = log.read().decode(errors="replace").strip().splitlines()
        return f"the zygote ended with exit code {code}" + (f": {words[-1]}" if words else "")


def _emptied(log: Path) -> BinaryIO:
    """For appending, so that it may be cut short under its writers."""
    return os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o640), "wb")

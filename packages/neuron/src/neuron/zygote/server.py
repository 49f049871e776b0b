"""The zygote itself: import, check, then fork on command until the socket ends.

It stays single-threaded and touches no device, for only then is a fork of it a sound process. A zygote that finds
itself otherwise becomes, by exec, one that imports nothing and starts a fresh interpreter for each load.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn, Protocol, cast

import msgspec

from cortex_core.processor import take_turn_at_once
from neuron.zygote import child, wire
from neuron.zygote.parent import adopt_orphans, die_with_parent


class Program(Protocol):
    """An engine module, as the zygote uses it."""

    ENGINE: str  # what it is called

    def prepare(self, setup: wire.Setup) -> None:
        """Set the environment that imports read."""

    def steps(self) -> list[str]:
        """Names of what `preload` goes through, for progress."""

    def preload(self, step: str) -> str:
        """Import one step. Returns what went wrong, in words, if loads work without it; else raises ImportError."""

    def identify(self) -> tuple[str, str]:
        """Version and platform of the engine."""

    def families(self) -> tuple[str, ...]:
        """Families of architectures that the engine knows; none: it cannot tell."""

    def dirt(self) -> str:
        """Why a fork of this process would not be sound, as far as only the engine can know; else nothing."""

    def main(self, request: str, events: int) -> None:
        """Be a replica: runs in the child, tells what happens on the descriptor `events`, returns at the end."""


def load_program(setup: wire.Setup) -> Program:
    program = cast(Program, importlib.import_module(setup.module))
    program.prepare(setup)
    return program


def serve(fd: int, parent: int, setup: wire.Setup, no_fork: str = "") -> NoReturn:
    """Be the zygote on the socket `fd` of the daemon `parent`. `no_fork`: why loads must not be forks, if so."""
    os.set_inheritable(fd, False)
    # No session of its own: as an autogroup (sched(7)) the engines would outweigh the daemon, which waited for seconds.
    os.setpgid(0, 0)
    take_turn_at_once()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C on the terminal is the daemon's to answer
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    die_with_parent(parent)
    adopt_orphans()
    sock = socket.socket(fileno=fd)
    begin = time.monotonic()
    try:
        program = load_program(setup)
        problems = () if no_fork else _preload(program, sock)
        version, platform = program.identify()
        families = program.families()
    except (ImportError, AttributeError, OSError, RuntimeError) as error:
        wire.send(sock, wire.Unusable(f"{setup.module} cannot be imported: {type(error).__name__}: {error}"[:4000]))
        raise
    if not no_fork and (reason := _dirt(program)):
        os.set_inheritable(fd, True)
        again = [sys.executable, "-m", "neuron.zygote", str(fd), str(parent), _json(setup), reason]
        os.execv(sys.executable, again)  # noqa: S606 - ourselves
    gc.collect()
    gc.freeze()  # keeps the collector from touching, and so copying, the pages that all engines share
    seconds = round(time.monotonic() - begin, 3)
    ready = wire.Ready(program.ENGINE, version, platform, seconds, not no_fork, no_fork, tuple(problems), families)
    wire.send(sock, ready)
    Server(sock, setup, program, fork=not no_fork).run()


def _json(setup: wire.Setup) -> str:
    return msgspec.json.encode(setup).decode()


def _preload(program: Program, sock: socket.socket) -> tuple[str, ...]:
    problems = []
    steps = program.steps()
    for number, step in enumerate(steps):
        wire.send(sock, wire.Preloading(number, len(steps), step))
        if problem := program.preload(step):
            problems.append(problem)
    return tuple(problems)


def _dirt(program: Program) -> str:
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads != 1:
        return f"importing the engine started {threads - 1} threads"
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the descriptor of the listing itself
            if (target := str(link.readlink())).startswith("/dev/nvidia"):
                return f"importing the engine opened {target}"
    return program.dirt()


class _Group:
    """A replica's processes: one that leads and those it started."""

    __slots__ = ("code", "pid")

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.code: int | None = None


class Server:
    def __init__(self, sock: socket.socket, setup: wire.Setup, program: Program, *, fork: bool) -> None:
        self._sock = sock
        self._setup = setup
        self._program = program
        self._fork = fork
        self._groups: dict[str, _Group] = {}
        self._wakeup, self._wakeup_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def run(self) -> NoReturn:
        signal.set_wakeup_fd(self._wakeup_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _ignore)
        while True:
            readable, _, _ = select.select([self._sock.fileno(), self._wakeup], [], [])
            if self._wakeup in readable:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wakeup, 4096)
            for replica, code in self._reap():
                wire.send(self._sock, wire.Exited(replica, code))
            if self._sock.fileno() in readable:
                self._obey(*wire.receive(self._sock))

    def _obey(self, data: bytes, fds: list[int]) -> None:
        if not data:
            for group in self._groups.values():
                _signal_group(group.pid, signal.SIGKILL)
            os._exit(0)
        match wire.decode_command(data):
            case wire.Fork() as order:
                log, events = fds
                pid = self._start(order, log, events)
                os.close(log)
                os.close(events)
                self._groups[order.replica] = _Group(pid)
                wire.send(self._sock, wire.Forked(order.replica, pid))
            case wire.Signal() as order:
                self._signal(order)

    def _start(self, order: wire.Fork, log: int, events: int) -> int:
        zygote = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            for fd in (self._sock.detach(), self._wakeup, self._wakeup_write):
                os.close(fd)
            main = self._program.main if self._fork else child.fresh_interpreter(self._setup)

            def replica() -> None:
                child.lead_group(zygote, log)
                main(order.request, events)

            child.run(replica)
        with contextlib.suppress(ProcessLookupError, PermissionError):  # both sides set it: whoever comes first
            os.setpgid(pid, pid)
        return pid

    def _signal(self, order: wire.Signal) -> None:
        group = self._groups.get(order.replica)
        if group is None:
            return
        if order.group:
            _signal_group(group.pid, order.number)
        elif group.code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(group.pid, order.number)

    def _reap(self) -> Iterator[tuple[str, int]]:
        for replica, group in list(self._groups.items()):
            if group.code is None:
                # Look without reaping: as long as the leader is a zombie its number, and the group's, is nobody else's.
                found = os.waitid(os.P_PID, group.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                if found is None:
                    continue
                group.code = found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
                _signal_group(group.pid, signal.SIGKILL)
            if _reap_group(group.pid):
                del self._groups[replica]
                yield replica, group.code


def _reap_group(pid: int) -> bool:
    """Reap what of the group has ended. True: nothing of it is left."""
    while True:
        try:
            reaped, _ = os.waitpid(-pid, os.WNOHANG)
        except ChildProcessError:
            return True
        if reaped == 0:
            return False


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


def _ignore(_number: int, _frame: object) -> None:
    """Handled at the wakeup descriptor."""

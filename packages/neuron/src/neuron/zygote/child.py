"""What a forked child does before it is an engine host, and how it ends."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from multiprocessing import shared_memory
from typing import NoReturn

import msgspec

from neuron.zygote import wire
from neuron.zygote.parent import die_with_parent

SHARED_MEMORY = "neuron-{pid}-"  # names in /dev/shm, by process group: so leftovers can be told from others' files


def run(replica: Callable[[], None]) -> NoReturn:
    """Be a replica to the end of this process: nothing returns or unwinds into the caller's frames."""
    code = 1
    try:
        replica()
        code = 0
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else 1
    finally:
        if error := sys.exc_info()[1]:
            traceback.print_exception(error)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # finalising an engine's heap takes a second and frees nothing that exiting does not


def lead_group(zygote: int, log: int) -> None:
    """What a fork of the zygote does first: lead a process group of its own, and print to its log."""
    os.setpgid(0, 0)
    die_with_parent(zygote)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(null)
    os.close(log)
    _name_shared_memory()


def _name_shared_memory() -> None:
    """Let this process tree's shared memory carry its group's number. The two names are CPython's own, 3.8 to 3.14."""
    prefix = SHARED_MEMORY.format(pid=os.getpgid(0))
    shared_memory._SHM_NAME_PREFIX = "/" + prefix  # type: ignore[attr-defined]
    shared_memory._SHM_SAFE_NAME_LENGTH = len(prefix) + 17  # type: ignore[attr-defined]


def fresh_interpreter(setup: wire.Setup) -> Callable[[str, int], None]:
    """A `main` that starts the engine module anew: slow to load, but it inherits nothing."""

    def main(request: str, events: int) -> None:
        os.set_inheritable(events, True)
        arguments = ["--engine-host", msgspec.json.encode(setup).decode(), str(events), request]
        os.execv(sys.executable, [sys.executable, "-m", "neuron.zygote", *arguments])  # noqa: S606 - ourselves

    return main


def set_up_fresh(events: int) -> None:
    """What `fresh_interpreter` starts does first."""
    os.set_inheritable(events, False)
    _name_shared_memory()

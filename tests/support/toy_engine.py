"""An engine module that computes nothing: the zygote's process rules can be tested with it in milliseconds.

Its replicas are two processes, like a real one's: a leader, and a core that holds the event pipe as well. What they do
is told by the load's options: `fail` (a phase), `crash`, `deaf` (to signals), `shared_memory`, `takes_s`.
How the module behaves is told by TOY: `broken`, `threads`, `slow`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from multiprocessing import resource_tracker, shared_memory

from neuron.engines.base import Facts, LoadSpec
from neuron.engines.events import Emitter, decode_request
from neuron.zygote.parent import die_with_parent
from neuron.zygote.wire import Setup

ENGINE = "toy"


def prepare(setup: Setup) -> None:
    os.environ["TOY_DEVICES"] = ",".join(setup.devices)


def steps() -> list[str]:
    return ["one", "two"]


def preload(step: str) -> str:
    how = os.environ.get("TOY", "")
    if how == "broken":
        raise ImportError(f"no module named {step}")
    if how == "slow":
        time.sleep(0.3)
    if how == "threads" and step == "two":
        threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
    return ""


def identify() -> tuple[str, str]:
    return "1.0", "cpu"


def families() -> tuple[str, ...]:
    return ()


def dirt() -> str:
    return ""


def main(request: str, events: int) -> None:
    spec: LoadSpec = decode_request(request, LoadSpec)
    emit = Emitter(events)
    options = spec.options
    emit.progress("weights", 0.5)
    if "crash" in options:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "fail" in options:
        emit.failed("the disk is on fire", phase=options["fail"])
        emit.failed("something failed before")
        sys.exit(1)
    time.sleep(options.get("takes_s", 0.0))
    core = _core(deaf=bool(options.get("deaf")))
    if "shared_memory" in options:
        memory = shared_memory.SharedMemory(create=True, size=4096)
        resource_tracker.unregister(memory._name, "shared_memory")  # type: ignore[attr-defined]
    if "deaf" in options:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
    sys.stdout.write(f"on {os.environ['TOY_DEVICES']}, started as {sys.orig_argv[-4]}\n")
    sys.stdout.flush()
    emit.serving(Facts(context=1, pids=(os.getpid(), core)))
    while True:
        signal.pause()


def _core(*, deaf: bool) -> int:
    leader = os.getpid()
    pid = os.fork()
    if pid == 0:
        if not deaf:
            die_with_parent(leader)
        time.sleep(3600)
        os._exit(0)
    return pid

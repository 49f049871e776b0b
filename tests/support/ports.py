"""Ports that nobody else has: two test runs side by side never meet."""

from __future__ import annotations

import fcntl
import os
import random
import socket
from pathlib import Path

LOWEST = 10_000
OURS = {13131, 13132, 31313, 31314}  # where a developer's own cortex may come up at any moment
_held: set[int] = set()  # descriptors of locks, kept until this process ends


def free_port(host: str = "127.0.0.1") -> int:
    """A port that can be bound now and that no other test run takes while this process lives.

    Port 0 would not do: what the kernel names is free again at once, and any client's connection may take it.
    So the port lies below the range of clients' ports, and a locked file keeps it for this process.
    """
    locks = Path(f"/tmp/cortex-test-ports-{os.getuid()}")
    locks.mkdir(mode=0o700, exist_ok=True)
    for _ in range(1000):
        port = random.randrange(LOWEST, _first_client_port())
        if port in OURS:
            continue
        lock = os.open(locks / str(port), os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as probe:
                probe.bind((host, port))
        except OSError:
            os.close(lock)
            continue
        _held.add(lock)
        return port
    raise RuntimeError(f"no free port on {host}")


def _first_client_port() -> int:
    try:
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:
        first = 32_768
    return max(first, LOWEST + 1000)

"""sd_notify(3): what a service manager is told, and that one which does not listen stops nobody."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cortex_core.notify import Notifier


@pytest.fixture
def manager(short_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as listens:
        listens.bind(str(short_path / "notify"))
        yield listens


def told(manager: socket.socket) -> list[str]:
    found = []
    while True:
        try:
            found.append(manager.recv(4096).decode())
        except BlockingIOError:
            return found


def test_it_tells_ready_then_its_status_where_it_changes_and_that_it_lives(manager: socket.socket) -> None:
    notifier = Notifier(manager.getsockname())
    notifier.ready()
    for status in ("a", "a", "b"):
        notifier.alive(status)
    notifier.stopping()
    assert told(manager) == ["READY=1", "WATCHDOG=1\nSTATUS=a", "WATCHDOG=1", "WATCHDOG=1\nSTATUS=b", "STOPPING=1"]


def test_a_manager_that_does_not_read_stops_nobody_and_hears_the_status_later(manager: socket.socket) -> None:
    """Its queue holds few (net.unix.max_dgram_qlen, 10 by default)."""
    notifier = Notifier(manager.getsockname())
    for _ in range(2000):
        notifier.alive("busy")
    assert told(manager)
    notifier.alive("busy")
    assert told(manager) == ["WATCHDOG=1\nSTATUS=busy"], "what was lost is told again"


def test_without_a_manager_nothing_is_told() -> None:
    Notifier("").ready()
    Notifier("/nowhere/notify").alive("nobody hears this")

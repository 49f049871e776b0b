"""Listening sockets: the forms of an address, what is wrong with one, and handing one over (R41)."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from cortex_core.http import Receive, Scope, Send, Server, address_of, bind, parse_address, respond
from tests.support.scale import scaled
from tests.support.until import until_async
from tests.support.wire import raw, request


async def ok(scope: Scope, receive: Receive, send: Send) -> None:
    await respond(send, 200, b"{}")


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:0", "[::1]:0", "0.0.0.0:0", "[::]:0"])
def test_addresses(address: str) -> None:
    with bind(address) as listener:
        assert not listener.getblocking()
        host, port = parse_address(address_of(listener))
        assert port > 0
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as client:
            client.connect(("::1" if family == socket.AF_INET6 else "127.0.0.1", port))


@pytest.mark.parametrize(
    "address", ["", "31313", "a", "::1:80", "a:b", "a:-1", "a:65536", "a:+80", "a:８０", "fd:x", "fd:"]
)
def test_what_is_no_address_is_told(address: str) -> None:
    with pytest.raises(ValueError, match=r"expected|brackets"):
        bind(address)


def test_an_address_in_use_is_named() -> None:
    with bind("127.0.0.1:0") as listener:
        address = address_of(listener)
        with pytest.raises(OSError, match=f"cannot listen on {address}: Address already in use"):
            bind(address)


def test_two_processes_on_one_port() -> None:
    with bind("127.0.0.1:0", reuse_port=True) as first, bind(address_of(first), reuse_port=True) as second:
        assert address_of(first) == address_of(second)


def test_a_unix_socket_left_behind_is_replaced_and_a_live_one_is_not(short_path: Path) -> None:
    path = short_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with bind(f"unix:{path}"):
        with pytest.raises(OSError, match=f"cannot listen on unix:{path}"):
            bind(f"unix:{path}")
        assert path.exists()
    assert not path.exists()


def test_a_file_is_never_replaced(short_path: Path) -> None:
    path = short_path / "precious"
    path.write_text("data")
    with pytest.raises(OSError, match="cannot listen on"):
        bind(f"unix:{path}")
    assert path.read_text() == "data"


def test_a_path_too_long(short_path: Path) -> None:
    with pytest.raises(OSError, match="cannot listen on"):
        bind(f"unix:{short_path}/{'a' * 120}")


def test_an_inherited_descriptor() -> None:
    with bind("127.0.0.1:0") as listener:
        inherited = bind(f"fd:{os.dup(listener.fileno())}")
        assert address_of(inherited) == address_of(listener)
        inherited.close()


def test_a_descriptor_that_does_not_listen() -> None:
    with socket.socket() as idle, pytest.raises(OSError, match="not a listening socket"):
        bind(f"fd:{idle.fileno()}")
    with pytest.raises(OSError, match="cannot listen on fd:"):
        bind("fd:999999")


async def test_restarts_through_an_inherited_socket_refuse_nobody_goal_R41() -> None:
    """Restarts under a stream of new connections; the parent keeps the socket, each server has its own copy."""
    restarts = scaled(5, 20)
    with bind("127.0.0.1:0") as kept:
        address = address_of(kept)
        answered = 0

        async def ask() -> None:
            nonlocal answered
            while answered < 20 * restarts + 20:
                async with raw(address) as client:
                    await client.send(request())
                    assert (await client.answer()).status == 200
                    answered += 1

        async with asyncio.TaskGroup() as group:
            askers = [group.create_task(ask()) for _ in range(4)]
            for generation in range(1, restarts + 1):
                async with Server(ok, listeners=[bind(f"fd:{os.dup(kept.fileno())}")]) as server:
                    await until_async(lambda enough=20 * generation: answered >= enough)  # type: ignore[misc]
                    await server.drain(5.0)
            async with Server(ok, listeners=[bind(f"fd:{os.dup(kept.fileno())}")]):
                await asyncio.wait(askers)
        assert answered >= 20 * restarts

"""When the loop rests between tokens, on either kind of event loop, and that nothing written waits for it."""

from __future__ import annotations

import asyncio
import socket

import pytest

from cortex_gateway.relay.moderation import ENOUGH, REST_S, Moderation, worth_a_rest

MS = 0.001


@pytest.mark.parametrize(
    ("pieces", "elapsed_ms", "rests"),
    [
        (1, 10.0, False),  # one stream: nothing else would come
        (1, 0.5, False),  # 2,000 tokens/s: one in each rest
        (1, 0.15, True),  # 64 streams × 100 tokens/s
        (3, 0.7, True),
        (3, 0.8, False),  # the turn itself was long: the loop has other things to do
        (ENOUGH - 1, 0.1, True),
        (ENOUGH, 0.1, False),  # enough came by itself
    ],
)
def test_a_rest_is_for_pieces_that_come_thick_and_fast(pieces: int, elapsed_ms: float, rests: bool) -> None:
    assert worth_a_rest(pieces, elapsed_ms * MS) is rests


class Time:
    """A clock that only rests move."""

    def __init__(self) -> None:
        self.now = 100.0
        self.rests: list[bytes] = []  # what the reader had at each
        self.reader: socket.socket | None = None

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.rests.append(self.reader.recv(100, socket.MSG_DONTWAIT) if self.reader else b"")


async def test_a_turn_of_the_loop_rests_once_however_many_pieces_it_passed() -> None:
    time = Time()
    moderation = Moderation(time.clock, time.sleep)
    for _ in range(ENOUGH - 1):
        moderation.passed()
    await turns()
    assert len(time.rests) == 1
    assert time.now == pytest.approx(100.0 + REST_S)
    await turns()
    assert len(time.rests) == 1  # nothing more has come
    moderation.passed()
    await turns()
    assert len(time.rests) == 2


async def test_what_was_written_has_left_before_the_rest() -> None:
    time = Time()
    moderation = Moderation(time.clock, time.sleep)
    ours, time.reader = socket.socketpair()
    with time.reader:
        transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
        transport.write(b"token")
        moderation.passed()
        await turns()
        assert time.rests == [b"token"]
        transport.close()
        await turns()


async def turns() -> None:
    """Some turns of the loop."""
    for _ in range(5):
        await asyncio.sleep(0)

"""Client and server through a faulty wire: an answer is whole and right, or it is an error (R01, R02, R04, R29)."""

from __future__ import annotations

import asyncio
import random

import pytest

from cortex_core.dialects.sse import SseDecoder
from cortex_core.http import BrokenResponse, Client, ConnectFailed, EventStream, Receive, Request, Scope, Send
from tests.support.faults import Fault, FaultyWire, Then
from tests.support.scale import scaled
from tests.support.until import until_async
from tests.support.wire import serving

EVENTS = 20


class Oracle:
    """Answers each request with events that carry its own number, and counts how often each was executed."""

    def __init__(self) -> None:
        self.executed: dict[bytes, int] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        number = await Request(scope, receive).body()
        self.executed[number] = self.executed.get(number, 0) + 1
        async with EventStream(send) as stream:
            await stream.start(200)
            for event in range(EVENTS):
                await stream.write(b"data: %b %d\n\n" % (number, event))
                await asyncio.sleep(0)
            await stream.end(b"data: [DONE]\n\n")


async def ask(client: Client, number: bytes) -> list[bytes]:
    decoder = SseDecoder()
    async with client.request("POST", "/", body=number, timeout_s=5.0) as response:
        events = []
        while data := await response.read_some():
            events += decoder.feed(data)
        return [event.data for event in events]


def whole(number: bytes) -> list[bytes]:
    return [b"%b %d" % (number, event) for event in range(EVENTS)] + [b"[DONE]"]


@pytest.mark.parametrize("fault", [Fault(), Fault(piece_bytes=1), Fault(seed=1), Fault(seed=2), Fault(delay_s=0.001)])
async def test_bytes_may_come_in_any_pieces_goal_R05(fault: Fault) -> None:
    async with serving(Oracle()) as server, FaultyWire(server.addresses[0], fault) as wire:
        client = Client(f"http://{wire.address}")
        for number in (b"1", b"2", b"3"):
            assert await ask(client, number) == whole(number)
            await asyncio.sleep(0)  # the connection rests for a turn of the loop
        assert wire.accepted == 1
        await client.close()


@pytest.mark.parametrize("then", [Then.CLOSE, Then.RESET, Then.CORRUPT])
async def test_cut_anywhere_an_answer_is_whole_or_an_error_goal_R01_R04(then: Then) -> None:
    """Each request cut at a random byte. A flipped byte may go unseen inside an event: framing has no
    checksum; what it must not do is shift one answer into another."""
    oracle = Oracle()
    choose = random.Random(1)
    async with serving(oracle) as server, FaultyWire(server.addresses[0]) as wire:
        broken = 0
        for number in range(scaled(200, 3000)):
            client = Client(f"http://{wire.address}")
            wire.fault = Fault(after_bytes=choose.randrange(900), then=then, of_request=choose.random() < 0.2)
            name = b"%d" % number
            try:
                events = await ask(client, name)
            except (BrokenResponse, ConnectFailed):
                broken += 1
            else:
                if then is Then.CORRUPT:
                    assert len(events) <= len(whole(name))
                else:
                    assert events == whole(name)
            await client.close()
        assert broken > (0 if then is Then.CORRUPT else 100)
        await until_async(lambda: server.in_flight == 0)
    assert max(oracle.executed.values()) == 1


async def test_no_request_is_executed_twice_goal_R02() -> None:
    """A pool whose connections the wire resets after some dozen answers, between two requests or within one."""
    oracle = Oracle()
    choose = random.Random(2)
    async with serving(oracle) as server, FaultyWire(server.addresses[0]) as wire:
        client = Client(f"http://{wire.address}")
        answered = 0
        doubts: list[str] = []
        for number in range(scaled(300, 10_000)):
            wire.fault = Fault(after_bytes=choose.randrange(20_000), then=Then.RESET)
            try:
                assert await ask(client, b"%d" % number) == whole(b"%d" % number)
                answered += 1
            except BrokenResponse as error:
                doubts.append(error.executed)
        await client.close()
        await until_async(lambda: server.in_flight == 0)
    assert max(oracle.executed.values()) == 1
    assert answered <= len(oracle.executed) <= scaled(300, 10_000)
    assert answered > 0.9 * scaled(300, 10_000)
    assert set(doubts) == {"unknown"}


async def test_a_silent_wire_is_noticed_by_its_reader_goal_R29() -> None:
    """Half-open: nobody is told. The client's user sees when the last byte came, and leaves."""
    async with serving(Oracle()) as server, FaultyWire(server.addresses[0], Fault(300, Then.SILENCE)) as wire:
        client = Client(f"http://{wire.address}")
        async with client.request("POST", "/", body=b"1") as response:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await response.read(10**6)
            assert asyncio.get_running_loop().time() - client.last_byte_at >= 0.1
        await client.close()


async def test_a_reset_upstream_reaches_its_reader_at_once() -> None:
    loop = asyncio.get_running_loop()
    async with serving(Oracle()) as server, FaultyWire(server.addresses[0], Fault(400, Then.RESET)) as wire:
        client = Client(f"http://{wire.address}")
        started = loop.time()
        with pytest.raises(BrokenResponse):
            await ask(client, b"1")
        assert loop.time() - started < 1.0
        await client.close()


async def test_a_stalled_reader_holds_up_its_own_stream_only_goal_R13() -> None:
    written = 0

    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal written
        stream = EventStream(send)
        await stream.start(200)
        while scope["path"] == "/endless":
            await stream.write(b"x" * 10_000)
            written += 10_000
        await stream.end(b"done")

    async with serving(endless) as server, FaultyWire(server.addresses[0], Fault(50_000, Then.STALL)) as wire:
        client = Client(f"http://{wire.address}")
        async with client.request("GET", "/endless") as response:
            assert await response.read_some()
            await until_async(lambda: any(c.can_write is not None for c in server._connections))
            stalled_at = written
            wire.heal()
            async with client.request("GET", "/") as other:
                assert await other.read(100) == b"done"
            assert written == stalled_at
        await client.close()

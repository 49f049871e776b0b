"""Restarts under load: nobody is refused, and no answer that ends within the drain is cut (F40, F41)."""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from cortex_core.http import BrokenResponse, Client, ConnectFailed, EventStream, Send, address_of, bind
from tests.chaos.stage import Stage, question, staged
from tests.support.figures import Figures
from tests.support.process import children
from tests.support.scale import scaled
from tests.support.scripted import ANSWER, DONE, Asked, chunk, says
from tests.support.until import eventually, until_async
from tests.support.wire import raw

STREAMS = scaled(10, 50)
REQUESTS_PER_S = 100
EVENTS, EVENT_S = 20, scaled(10, 50) / 1000  # a stream lasts a second
RESTARTS = scaled(1, 20)


async def answers(asked: Asked, send: Send) -> None:
    """A stream of a second, or an answer at once."""
    if b'"stream":true' not in asked.body.replace(b" ", b""):
        await says(ANSWER)(asked, send)
        return
    async with EventStream(send) as out:
        await out.start(200)
        for number in range(EVENTS):
            await out.write(chunk(f"{number} "))
            await asyncio.sleep(EVENT_S)
        await out.end(DONE)


@dataclass
class Load:
    """Requests at a steady rate, half of them over new connections, half over kept ones; and streams all the time."""

    address: str
    answered: int = 0
    streamed: int = 0
    wrong: list[str] = field(default_factory=list)

    async def run(self) -> None:
        client = Client(f"http://{self.address}", connect_timeout_s=10.0)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(STREAMS):
                    group.create_task(self._streams())
                began = time.monotonic()
                for number in itertools.count():
                    group.create_task(self._ask(client if number % 2 else None))
                    await asyncio.sleep(max(0.0, began + number / REQUESTS_PER_S - time.monotonic()))
        finally:
            await client.close()

    async def goes_on(self) -> None:
        """Until there have been as many streams again."""
        streamed = self.streamed
        await until_async(lambda: self.streamed >= streamed + STREAMS, timeout_s=60)

    async def _streams(self) -> None:
        while True:
            if await self._over_a_new_one(question(), b"data: [DONE]\n\n"):
                self.streamed += 1

    async def _ask(self, client: Client | None) -> None:
        asked = question(stream=False)
        if client is None:
            if await self._over_a_new_one(asked, b"I am tiny"):
                self.answered += 1  # `+= await` would add to what it was before the wait
            return
        head, _, body = asked.partition(b"\r\n\r\n")
        try:
            async with client.request("POST", head.split(b" ")[1].decode(), body=body) as response:
                whole = await response.read(10**6)
        except (BrokenResponse, ConnectFailed) as error:
            self.wrong.append(f"kept: {error}")
        else:
            self.answered += 1
            assert b"I am tiny" in whole

    async def _over_a_new_one(self, asked: bytes, end: bytes) -> bool:
        try:
            async with raw(self.address) as client:
                await client.send(asked)
                answer = await client.answer(timeout_s=60)
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            self.wrong.append(f"{type(error).__name__}: {error}")
            return False
        if answer.status != 200 or not answer.clean or end not in answer.body:
            self.wrong.append(f"{answer.status} {answer.clean} {answer.body[-200:]!r}")
            return False
        return True


@asynccontextmanager
async def loaded(address: str) -> AsyncIterator[Load]:
    """Under load from before the block to behind it."""
    load = Load(address)
    task = asyncio.get_running_loop().create_task(load.run())
    try:
        await until_async(lambda: load.streamed >= STREAMS, timeout_s=30)
        yield load
        await load.goes_on()
    finally:
        task.cancel()
        await asyncio.wait([task])


def told(load: Load) -> str:
    return f"{len(load.wrong)} refused, failed or cut; {load.answered:,} answers and {load.streamed:,} streams whole"


@pytest.mark.parametrize("processes", [1, 2])
async def test_goal_R41_restarts_over_a_socket_that_stays_refuse_nobody(figures: Figures, processes: int) -> None:
    """As systemd restarts a service with socket activation: stop it, wait for its end, start it."""
    with bind("127.0.0.1:0") as kept:
        arguments = ["--processes", str(processes)]
        async with staged(kept=kept, arguments=arguments) as stage:
            stage.neuron.answers = answers
            began = time.monotonic()
            async with loaded(address_of(kept)) as load:
                for _ in range(RESTARTS):
                    stage.gateway.signal(signal.SIGTERM)
                    assert await asyncio.to_thread(stage.gateway.wait, 30) == 0
                    stage.gateway.start_unseen()
                    await load.goes_on()
            took_s = time.monotonic() - began
    assert load.wrong == []
    figures.add(
        "R41", f"{RESTARTS} restarts, socket activation, {processes} process(es), 100 requests/s + {STREAMS} streams",
        "0 refused, 0 failed", f"{told(load)} in {took_s:.0f} s",
    )  # fmt: skip


async def test_goal_R41_one_of_two_processes_after_the_other(figures: Figures) -> None:
    """Their parent keeps the sockets: one is told to end, and its replacement serves who waits in its socket."""
    async with staged(arguments=["--processes", "2"]) as stage:
        stage.neuron.answers = answers
        await eventually(lambda: len(serving(stage)) == 2)
        async with loaded(stage.address) as load:
            for _ in range(scaled(1, 10)):
                before = serving(stage)
                os.kill(before[0], signal.SIGTERM)
                await until_async(functools.partial(renewed, stage, before[0]), timeout_s=60)
    assert load.wrong == []
    what = f"{scaled(1, 10)} restarts of one of two processes, 100 requests/s + {STREAMS} streams"
    figures.add("R41", what, "0 refused, 0 failed", told(load))


def serving(stage: Stage) -> list[int]:
    return children(stage.gateway.pid)


def renewed(stage: Stage, gone: int) -> bool:
    now = serving(stage)
    return len(now) == 2 and gone not in now


async def test_goal_R40_a_drain_cuts_no_stream_that_ends_in_its_window(figures: Figures) -> None:
    many = scaled(40, 200)
    async with staged() as stage:
        stage.neuron.answers = answers

        async def one() -> bool:
            async with stage.asking() as client:
                answer = await client.answer(timeout_s=60)
                return answer.clean and answer.body.count(b'"content"') == EVENTS and answer.body.endswith(DONE)

        async with asyncio.TaskGroup() as group:
            streams = [group.create_task(one()) for _ in range(many)]
            await until_async(lambda: stage.neuron.running == many, timeout_s=30)
            stage.gateway.signal(signal.SIGTERM)
        assert await asyncio.to_thread(stage.gateway.wait, 30) == 0
    whole = sum(stream.result() for stream in streams)
    figures.add("R40", f"drain with {many} streams", "0 cut in the window", f"{many - whole} cut")
    assert whole == many


async def test_goal_R40_a_drain_ends_at_its_deadline(figures: Figures) -> None:
    """Streams without end, and some whose reader has stalled: cut with the dialect's words, and the process ends."""
    many, drain_s = scaled(20, 200), 2.0

    async def endless(_: Asked, send: Send) -> None:
        stream = EventStream(send)
        await stream.start(200)
        while True:
            await stream.write(chunk("x" * 1000))
            await asyncio.sleep(0.001)

    async with staged(tables={"gateway": {"drain_s": drain_s}}) as stage:
        stage.neuron.answers = endless

        async def one(*, reads: bool) -> bytes:
            async with stage.client(limit=2**16 if reads else 1) as client:
                await client.send(question())
                if reads:
                    return await client.closed(timeout_s=60)
                await until_async(lambda: not stage.gateway.running, timeout_s=60)
                return b""

        async with asyncio.TaskGroup() as group:
            streams = [group.create_task(one(reads=bool(number % 4))) for number in range(many)]
            await until_async(lambda: stage.neuron.running == many, timeout_s=30)
            began = time.monotonic()
            stage.gateway.signal(signal.SIGTERM)
            code = await asyncio.to_thread(stage.gateway.wait, 30)
            took_s = time.monotonic() - began
    assert code == 0
    ends = [stream.result() for number, stream in enumerate(streams) if number % 4]
    assert all(b'"code":"shutting_down"' in end and not end.endswith(b"0\r\n\r\n") for end in ends)
    what = f"drain of {drain_s:g} s with {many} endless streams, a quarter of them unread"
    figures.add("R40", what, "exit at the deadline ± 1 s", f"{took_s - drain_s:+.2f} s")
    assert -0.1 <= took_s - drain_s <= scaled(8, 1)

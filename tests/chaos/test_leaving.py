"""A client that leaves, in whatever phase and with whatever bytes behind its request, leaves nothing behind (F20, F21).

The clock runs from the client's close to the moment when the neuron sees its own connection closed, or, while the
request still waits at the gateway, to the moment when the gateway's own picture has no waiter any more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import msgspec

from cortex_core.gateway_api import FleetView
from cortex_core.http import Client, EventStream, Send
from cortex_core.neuron_api import LoadRequest
from tests.chaos.stage import Stage, question, staged
from tests.support.figures import Figures, milliseconds, percentile
from tests.support.scale import scaled
from tests.support.scripted import Asked, chunk
from tests.support.until import until_async

BEHIND = {
    "nothing": b"",
    "a pipelined request": question("tiny", "me as well"),
    "garbage": b"\x00\xff this is no request \r\n\r\n",
}
OF_EACH = scaled(3, 334)  # phase and what stands behind: 1,000 of each phase

Leaving = Callable[[Stage, bytes], Awaitable[float]]


class Answers:
    """An engine's, which stay in a phase until their connection is closed."""

    def __init__(self) -> None:
        self.phase: Callable[[Send], Awaitable[None]] = before
        self.reached = 0
        self.closed = 0.0  # when the last one was

    async def __call__(self, asked: Asked, send: Send) -> None:
        self.reached += 1
        try:
            await self.phase(send)
        finally:
            self.closed = time.monotonic()


async def before(send: Send) -> None:
    """The head has not come."""
    await asyncio.Event().wait()


async def between(send: Send) -> None:
    """Between two events."""
    stream = EventStream(send)
    await stream.start(200)
    await stream.write(chunk("Hello"))
    await asyncio.Event().wait()


async def blocked(send: Send) -> None:
    """In writes that nobody reads."""
    stream = EventStream(send)
    await stream.start(200)
    while True:
        await stream.write(chunk("x" * 10_000))


async def leave_the_engine(
    stage: Stage, answers: Answers, phase: Callable[[Send], Awaitable[None]], behind: bytes, *, stream: bool = True
) -> float:
    """Seconds from the close to the close of the upstream connection."""
    answers.phase, answers.reached = phase, 0
    async with stage.client(limit=1 if phase is blocked else 2**16) as client:
        await client.send(question(stream=stream) + behind)
        await until_async(lambda: answers.reached == 1, poll_s=0.001)
        if phase is between:
            await client.until(b"Hello")
        elif phase is blocked:
            await until_async(lambda: stage.held_up, poll_s=0.001)
        left = time.monotonic()
        client.abort()
        await until_async(lambda: stage.neuron.running == 0, poll_s=0.0005)
    return answers.closed - left


async def leave_the_queue(stage: Stage, fleet: Client, model: str, behind: bytes) -> float:
    """The same for a request that waits at the gateway; the question whether it still does is in the time."""

    async def waiters() -> int:
        async with fleet.request("GET", "/cortex/v1/fleet") as answer:
            view = msgspec.json.decode(await answer.read(10**6), type=FleetView)
        return sum(waiting.waiters for waiting in view.waiting.values())

    async def waits() -> bool:
        return await waiters() == 1

    async def gone() -> bool:
        return await waiters() == 0

    async with stage.client(limit=1) as client:
        await client.send(question(model) + behind)
        await until_async(waits, poll_s=0.0005)
        left = time.monotonic()
        client.abort()
        await until_async(gone, poll_s=0)
        return time.monotonic() - left


async def test_goal_R10_R11_whoever_leaves_leaves_nothing_running(figures: Figures) -> None:
    answers = Answers()

    async def never(_: LoadRequest) -> None:
        await asyncio.Event().wait()

    async with staged() as stage:
        stage.neuron.answers, stage.neuron.load = answers, never
        fleet = Client(f"http://{stage.address}")
        phases: dict[str, Callable[[bytes], Awaitable[float]]] = {
            "before the head": lambda behind: leave_the_engine(stage, answers, before, behind),
            "between tokens": lambda behind: leave_the_engine(stage, answers, between, behind),
            "in a write": lambda behind: leave_the_engine(stage, answers, blocked, behind),
            "not streaming": lambda behind: leave_the_engine(stage, answers, before, behind, stream=False),
            "cold load": lambda behind: leave_the_queue(stage, fleet, "cold", behind),
            "queue": lambda behind: leave_the_queue(stage, fleet, "narrow", behind),
        }
        for phase, leave in phases.items():
            async with AsyncExitStack() as occupied:
                if phase == "queue":
                    answers.phase = before
                    await occupied.enter_async_context(stage.asking("narrow"))
                    await until_async(lambda: stage.neuron.running == 1)
                executed = len(stage.neuron.asked)
                times = [await leave(bytes_) for bytes_ in BEHIND.values() for _ in range(OF_EACH)]
                executed = len(stage.neuron.asked) - executed
            assert executed == (0 if phase in ("cold load", "queue") else len(times)), "what stood behind was executed"
            figures.add(
                "R10", f"client gone → upstream closed, {phase}", "p50 ≤ 5 ms, p99 ≤ 50 ms", milliseconds(times)
            )
            assert percentile(times, 0.5) <= scaled(250, 5) / 1000
            assert percentile(times, 0.99) <= scaled(2000, 50) / 1000
        await until_async(lambda: stage.neuron.running == 0)
        await fleet.close()
        await until_async(lambda: stage.is_empty, what="no connection left")

"""Virtual time: an event loop whose clock jumps to the next timer, so that an hour costs what happens in it.

What is due at one instant runs in an order that the seed decides, and is replayed exactly. A loop with nothing left
to do and a main task that is not done is a deadlock: it raises at once, with what every task waits for.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections import deque
from collections.abc import Callable, Coroutine
from heapq import heappop, heappush
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

TOLD_MOST = 20  # tasks named when a simulation is stuck
STEPS_MOST = 200_000  # at one instant: more is a loop that never waits


class Stuck(AssertionError):
    """The main task is not done, and nothing is scheduled, or time stands still, or too much of it went by."""


def run(main: Coroutine[Any, Any, T], *, seed: int = 0, limit_s: float = 86_400.0) -> T:
    """What `main` returns, in virtual time that starts at 0.

    Raises:
        Stuck: a deadlock, a loop that never waits, or not done after `limit_s` virtual seconds.
    """
    loop = VirtualLoop(seed, limit_s)  # type: ignore[abstract] # no sockets, processes and signals here
    result: T = loop.run_until_complete(main)
    return result


class VirtualLoop(asyncio.AbstractEventLoop):
    """Timers, tasks and futures, and nothing of the outside world: no sockets, threads, processes or signals."""

    def __init__(self, seed: int = 0, limit_s: float = 86_400.0) -> None:
        self._now = 0.0
        self._limit_s = limit_s
        self._dice = random.Random(seed)
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, float, asyncio.TimerHandle]] = []  # (when, order among equals, what)
        self._failure: BaseException | None = None

    # ---------------------------------------------------------------- running

    def run_until_complete(self, future: Any) -> Any:
        if asyncio._get_running_loop() is not None:
            raise RuntimeError("a simulation runs outside of any other event loop")
        asyncio._set_running_loop(self)
        try:
            task = self.create_task(future)
            try:
                self._run_until(task)
            except BaseException:
                self._abandon()
                raise
            return task.result()
        finally:
            asyncio._set_running_loop(None)

    def _run_until(self, task: asyncio.Task[Any]) -> None:
        ready, steps = self._ready, 0
        while not task.done():
            if not ready:
                before = self._now
                self._jump(task)
                steps = steps if self._now == before else 0
            steps += 1
            if steps > STEPS_MOST:
                raise Stuck(f"{steps} steps at {self._now:g} s, and time stands still\n{self._waiting(task)}")
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()
                if self._failure is not None:
                    raise self._failure

    def _jump(self, task: asyncio.Task[Any]) -> None:
        """To the next instant at which something is due: all of it is made ready, or by the seed's choice one."""
        timers, ready = self._timers, self._ready
        alone = self._dice.random() < 0.5
        while timers and not (ready and (alone or timers[0][0] > self._now)):
            when, _, handle = heappop(timers)
            if handle.cancelled():
                continue
            if when > self._limit_s:
                raise Stuck(f"not done after {self._limit_s:g} virtual seconds\n{self._waiting(task)}")
            self._now = max(self._now, when)
            ready.append(handle)
        if not ready:
            raise Stuck(f"deadlock at {self._now:g} s: nothing is scheduled\n{self._waiting(task)}")

    def _abandon(self) -> None:
        """End what is left after a failure, so that no task is destroyed while it waits."""
        for task in asyncio.all_tasks(self):
            task.cancel()
        while self._ready:
            handle = self._ready.popleft()
            if not handle._cancelled:
                handle._run()

    def _waiting(self, main: asyncio.Task[Any]) -> str:
        tasks = sorted(asyncio.all_tasks(self), key=lambda task: (task is not main, task.get_name()))
        lines = [f"  {task.get_name()}: {_place(task)}" for task in tasks[:TOLD_MOST]]
        return "\n".join([*lines, *([f"  and {len(tasks) - TOLD_MOST} more"] if len(tasks) > TOLD_MOST else [])])

    # ---------------------------------------------------------------- what asyncio asks of a loop

    def time(self) -> float:
        return self._now

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        heappush(self._timers, (when, self._dice.random(), handle))
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:
        return asyncio.Task(coro, loop=self, **options)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Whatever asyncio would only have logged ends the simulation."""
        self._failure = context.get("exception") or RuntimeError(context["message"])

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It stays where it is, and is passed over when its time comes."""


def _place(task: asyncio.Task[Any]) -> str:
    """Where a task is suspended: the innermost line of ours."""
    place = "not begun"
    awaited: Any = task.get_coro()
    while (frame := getattr(awaited, "cr_frame", None)) is not None:
        place = f"{frame.f_code.co_qualname if hasattr(frame.f_code, 'co_qualname') else frame.f_code.co_name}"
        place += f" ({frame.f_code.co_filename.rsplit('/', 1)[-1]}:{frame.f_lineno})"
        awaited = getattr(awaited, "cr_await", None)
    return place

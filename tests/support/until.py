"""Waiting for something to become true, with a deadline: never a sleep that hopes."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")

POLL_S = 0.01


class NotInTime(AssertionError):
    """The condition did not become true before its deadline."""


def until(condition: Callable[[], T], *, timeout_s: float = 10.0, what: str = "", poll_s: float = POLL_S) -> T:
    """The first truthy value of `condition`, for code without a loop.

    Raises:
        NotInTime: with `what` was waited for and the last value seen.
    """
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise NotInTime(_missed(condition, what, timeout_s, value))
        time.sleep(poll_s)
    return value


@overload
async def until_async(
    condition: Callable[[], Awaitable[T]], *, timeout_s: float = 10.0, what: str = "", poll_s: float = POLL_S
) -> T: ...


@overload
async def until_async(
    condition: Callable[[], T], *, timeout_s: float = 10.0, what: str = "", poll_s: float = POLL_S
) -> T: ...


async def until_async(
    condition: Callable[[], Any], *, timeout_s: float = 10.0, what: str = "", poll_s: float = POLL_S
) -> Any:
    """The same on the event loop; the condition may be a coroutine function, which the deadline bounds as well.

    Raises:
        NotInTime: with `what` was waited for and the last value seen.
    """
    value: Any = None
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                outcome = condition()
                value = await outcome if inspect.isawaitable(outcome) else outcome
                if value:
                    return value
                await asyncio.sleep(poll_s)
    except TimeoutError:
        raise NotInTime(_missed(condition, what, timeout_s, value)) from None


async def eventually(condition: Callable[[], T], *, timeout_s: float = 10.0, what: str = "") -> T:
    """`until` in a thread: for a condition that blocks, such as one that asks a server, while the loop goes on."""
    return await asyncio.to_thread(until, condition, timeout_s=timeout_s, what=what)


def _missed(condition: object, what: str, timeout_s: float, value: object) -> str:
    return f"not within {timeout_s} s: {what or getattr(condition, '__name__', condition)}; last seen: {value!r}"

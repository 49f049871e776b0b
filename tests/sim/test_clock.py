"""Virtual time: it jumps, it replays, and it says who is stuck."""

from __future__ import annotations

import asyncio

import pytest

from cortex_gateway.sim import clock


def test_time_jumps_to_what_is_due() -> None:
    async def a_day() -> float:
        await asyncio.sleep(86_400)
        return asyncio.get_running_loop().time()

    assert clock.run(a_day(), limit_s=100_000) == 86_400


def test_what_is_due_at_once_comes_in_an_order_that_the_seed_decides() -> None:
    async def order() -> str:
        seen: list[str] = []

        async def one(name: str) -> None:
            await asyncio.sleep(1)
            seen.append(name)

        async with asyncio.TaskGroup() as tasks:
            for name in "abcdef":
                tasks.create_task(one(name))
        return "".join(seen)

    orders = {seed: clock.run(order(), seed=seed) for seed in range(20)}
    assert len(set(orders.values())) > 10
    assert orders == {seed: clock.run(order(), seed=seed) for seed in range(20)}


def test_soon_keeps_its_order() -> None:
    async def order() -> list[int]:
        seen: list[int] = []
        for number in range(5):
            asyncio.get_running_loop().call_soon(seen.append, number)
        await asyncio.sleep(0)
        return seen

    assert clock.run(order()) == [0, 1, 2, 3, 4]


def test_a_deadlock_names_who_waits_and_where() -> None:
    async def for_ever() -> None:
        await asyncio.Event().wait()

    with pytest.raises(clock.Stuck, match=r"nothing is scheduled\n.*for_ever|nothing is scheduled\n.*Event\.wait"):
        clock.run(for_ever())


def test_a_loop_that_never_waits_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "STEPS_MOST", 1000)

    async def livelock() -> None:
        while True:  # noqa: ASYNC110 - the mistake
            await asyncio.sleep(0)

    with pytest.raises(clock.Stuck, match="time stands still"):
        clock.run(livelock())


def test_too_much_virtual_time_is_found() -> None:
    async def ticking() -> None:
        while True:  # noqa: ASYNC110 - the mistake
            await asyncio.sleep(1)

    with pytest.raises(clock.Stuck, match="not done after 100 virtual seconds"):
        clock.run(ticking(), limit_s=100)


def test_an_exception_that_nobody_fetched_ends_it() -> None:
    async def forgetful() -> None:
        asyncio.get_running_loop().call_later(1, lambda: 1 / 0)
        await asyncio.sleep(2)

    with pytest.raises(ZeroDivisionError):
        clock.run(forgetful())


def test_timeouts_and_cancellation_work_as_in_any_loop() -> None:
    async def story() -> tuple[float, str]:
        try:
            async with asyncio.timeout(3):
                await asyncio.sleep(10)
        except TimeoutError:
            pass
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(asyncio.sleep(10))
            await asyncio.sleep(1)
            task.cancel("enough")
        return asyncio.get_running_loop().time(), "cancelled" if task.cancelled() else "ran"

    assert clock.run(story()) == (4.0, "cancelled")

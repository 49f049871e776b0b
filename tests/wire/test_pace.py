"""How slow is too slow, as tables: bodies (F24) and readers (F23)."""

from __future__ import annotations

import pytest

from cortex_core.http import Limits
from cortex_core.http.pace import BodyPace, ReaderPace

LIMITS = Limits(body_grace_s=10.0, body_bytes_per_s=100, body_timeout_s=60.0, write_stall_s=30.0, write_bytes=1000)


@pytest.mark.parametrize(
    ("size", "taken_s", "too_slow"),
    [
        (0, 9.9, False),
        (0, 10.1, True),
        (1000, 19.9, False),
        (1000, 20.1, True),
        (10**9, 59.9, False),
        (10**9, 60.1, True),
    ],
)
def test_a_body(size: int, taken_s: float, too_slow: bool) -> None:
    pace = BodyPace()
    assert not pace.is_too_slow(10**6, LIMITS)  # its sender waits for 100 Continue
    pace.begin(1000.0)
    pace.size = size
    assert pace.is_too_slow(1000.0 + taken_s, LIMITS) is too_slow


def test_the_pauses_of_the_app_do_not_count() -> None:
    pace = BodyPace()
    pace.begin(1000.0)
    pace.pause(1005.0)
    assert not pace.is_too_slow(9000.0, LIMITS)
    pace.resume(9000.0)
    assert not pace.is_too_slow(9004.9, LIMITS)
    assert pace.is_too_slow(9005.1, LIMITS)


@pytest.mark.parametrize(
    ("taken", "stalled_at_s"),
    [
        ([], 30),
        ([(29, 1)], 30),  # a byte is no progress
        ([(29, 999)], 30),
        ([(29, 1000)], 59),
        ([(10, 400), (20, 1000)], 50),  # what was taken adds up
        ([(29, 1000), (58, 2000), (87, 3000)], 117),
    ],
)
def test_a_reader(taken: list[tuple[int, int]], stalled_at_s: int) -> None:
    """`taken`: at which second how many bytes in all."""
    unsent = 10_000
    pace = ReaderPace(0.0, unsent)
    second = 0
    while not pace.is_stalled(second, unsent - _so_far(taken, second), LIMITS):
        second += 1
    assert second == stalled_at_s + 1


def _so_far(taken: list[tuple[int, int]], second: int) -> int:
    return max((size for at, size in taken if at <= second), default=0)

"""What is learned and told, kept over restarts."""

from __future__ import annotations

from pathlib import Path

import pytest

from cortex_core.fleet import Failure, Known, ModelFacts, Profile
from neuron.sizing.learned import BACK_OFF_S, FORGET_S, HALF_LIFE_S, Learned


class Wall:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


FAILURE = Failure(model="m", digest="d", scope="model", code="load_failed", message="weights: torn")
FACTS = ModelFacts(context=8192, reasoning=True, thinking_toggle="none", system_first=False)
KNOWN = Known(model="m", digest="d", device_kind="cpu", load_s=2.5, kv_tokens=100, facts=FACTS)


@pytest.fixture
def wall() -> Wall:
    return Wall()


def test_everything_survives_a_restart(tmp_path: Path, wall: Wall) -> None:
    first = Learned(tmp_path, wall)
    first.loaded(KNOWN)
    first.used("m", "d")
    first.failed(FAILURE)
    first.pin(Profile(id="m", vram_mb=7), True)
    first.cordon(True, "a new fan")
    first.write(first.taken())
    wall.now += 2

    second = Learned(tmp_path, wall)
    [known] = second.all_known()
    assert (known.load_s, known.kv_tokens, round(known.uses, 2), known.facts) == (2.5, 100, 1.0, FACTS)
    [failure] = second.failures()
    assert (failure.count, failure.retry_in_s) == (1, BACK_OFF_S[0] - 2)
    assert second.pinned_profiles() == [Profile(id="m", vram_mb=7)]
    assert (second.cordoned, second.cordon_reason) == (True, "a new fan")


def test_failures_in_a_row_double_the_back_off_to_a_limit(tmp_path: Path, wall: Wall) -> None:
    learned = Learned(tmp_path, wall)
    delays = [learned.failed(FAILURE).retry_in_s for _ in range(8)]
    assert delays == [5, 10, 20, 40, 80, 160, 300, 300]
    wall.now += 299
    assert learned.failures()[0].retry_in_s == 1
    wall.now += 10
    assert learned.failures()[0].retry_in_s == 0


def test_a_success_forgets_what_failed(tmp_path: Path, wall: Wall) -> None:
    learned = Learned(tmp_path, wall)
    learned.failed(FAILURE)
    learned.loaded(KNOWN)
    assert learned.failures() == ()
    assert learned.failed(FAILURE).count == 1


def test_an_old_failure_counts_no_more(tmp_path: Path, wall: Wall) -> None:
    learned = Learned(tmp_path, wall)
    learned.failed(FAILURE)
    wall.now += FORGET_S
    assert learned.failed(FAILURE).count == 1


def test_uses_fade(tmp_path: Path, wall: Wall) -> None:
    learned = Learned(tmp_path, wall)
    learned.loaded(KNOWN)
    for _ in range(4):
        learned.used("m", "d")
    wall.now += HALF_LIFE_S
    assert learned.all_known()[0].uses == 2.0
    assert learned.stale


def test_a_catalogues_pin_counts_at_first_sight_and_an_operators_wins(tmp_path: Path, wall: Wall) -> None:
    learned = Learned(tmp_path, wall)
    profile = Profile(id="m", pinned_on=("beast",))
    learned.seen(profile, "benjy")
    assert not learned.pinned("m")
    learned.seen(profile, "beast")
    assert learned.pinned("m")
    learned.pin(profile, False)
    learned.seen(profile, "beast")
    assert not learned.pinned("m")
    assert learned.pins() == {"m": False}


def test_a_disk_that_cannot_be_written_is_said_once_and_costs_only_the_memory(
    tmp_path: Path, wall: Wall, caplog: pytest.LogCaptureFixture
) -> None:
    learned = Learned(tmp_path / "state", wall)
    (tmp_path / "state").rmdir()
    learned.write(learned.taken())
    learned.write(learned.taken())
    assert caplog.text.count("cannot be written") == 1
    (tmp_path / "state").mkdir()
    learned.loaded(KNOWN)
    learned.write(learned.taken())
    assert Learned(tmp_path / "state", wall).known("m", "d", "cpu") is not None


@pytest.mark.parametrize("content", [b"", b"{", b'{"known": 3}', b"\x00" * 100])
def test_a_spoiled_file_is_laid_aside(
    tmp_path: Path, wall: Wall, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "state.json").write_bytes(content)
    learned = Learned(tmp_path, wall)
    assert learned.all_known() == ()
    assert (tmp_path / "state.broken").read_bytes() == content
    assert "cannot be read" in caplog.text
    learned.write(learned.taken())
    assert Learned(tmp_path, wall).all_known() == ()

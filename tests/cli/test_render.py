"""The picture of the fleet as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex_cli.render import duration, ls, megabytes, plain, ps, status, table
from cortex_core.fleet import State
from cortex_core.gateway_api import FleetView, NeuronView
from tests.support.fleets import fleet_view, replica

PLAIN = False
EMPTY = FleetView(version="1", gateway="g", uptime_s=1.0)


def lines_about(text: str, *words: str) -> list[str]:
    return [line for line in text.splitlines() if all(word in line for word in words)]


def test_status_shows_neurons_devices_memory_models_states_and_failures() -> None:
    assert status(fleet_view(), "http://h:1", PLAIN) == (
        """\
cortex 1.2.3 at http://h:1: up 61 min, 2 of 3 neurons

NEURON  DEVICE  MEMORY    HELD      OTHERS   FREE      STATE
beast   cuda:0  31.2 GiB  2000 MiB  500 MiB  28.8 GiB  up
benjy   cpu:0   4 MiB     1 MiB     0 MiB    3 MiB     up, cordoned, simulated
gone    -       -         -         -        -         down: no route�[2J to host

MODEL   NEURON  DEVICES  MEMORY    IN FLIGHT  WAITING    STATE
busy    beast   cuda:0   1000 MiB  3/8        -          ready
coming  beast   cuda:0   1000 MiB  0          -          loading, weights 25%, 12 s to go
played  benjy   cuda:0   1000 MiB  0          -          ready, simulated
waits   -       -        -         -          4 (7.5 s)  unloaded; fits on beast, benjy
giant   -       -        -         -          -          unloaded; fits nowhere

FAILED  NEURON  CODE         AGAIN IN  REASON
broken  beast   load_failed  30 s      bad
"""
    )


def test_ps_shows_what_is_loaded() -> None:
    assert ps(fleet_view(), PLAIN) == (
        """\
MODEL   NEURON  DEVICES  MEMORY    IN FLIGHT  QUEUE  CONTEXT  PINNED  IDLE  STATE
busy    beast   cuda:0   1000 MiB  3/8        2      4096     yes     -     ready
coming  beast   cuda:0   1000 MiB  0          0      -        -       -     loading, weights 25%, 12 s to go
played  benjy   cuda:0   1000 MiB  0          0      -        -       90 s  ready, simulated
"""
    )


def test_ls_shows_what_can_be_served() -> None:
    assert ls(fleet_view(), PLAIN) == (
        """\
MODEL   CONTEXT  WAITING    FITS ON       STATE
busy    4096     -          beast         ready on beast
coming  -        -          beast         loading on beast
played  -        -          benjy         ready on benjy (simulated)
waits   -        4 (7.5 s)  beast, benjy  unloaded
giant   -        -          -             unloaded
"""
    )


def test_an_empty_fleet_is_said_in_words() -> None:
    assert ps(EMPTY, PLAIN) == "nothing is loaded\n"
    assert ls(EMPTY, PLAIN) == "no model is known\n"
    assert status(EMPTY, "http://h:1", PLAIN) == "cortex 1 at http://h:1: up 1.0 s, 0 of 0 neurons\n"


@pytest.mark.parametrize("render", [ps, ls, lambda v, s: status(v, "g", s)])
def test_every_line_about_a_simulated_engine_says_so(render: object) -> None:
    text = render(fleet_view(), PLAIN)  # type: ignore[operator]
    about = lines_about(text, "played") + lines_about(text, "benjy", "cpu:0")
    assert about
    assert all("simulated" in line for line in about)
    assert not any("simulated" in line for line in lines_about(text, "busy"))


def test_a_replica_that_failed_holds_no_memory_and_says_why() -> None:
    failed = replica("m", State.FAILED, reason="out of memory")
    view = FleetView(
        version="1", gateway="g", uptime_s=1, neurons=(NeuronView(name="n", endpoint="", up=True, replicas=(failed,)),)
    )
    [line] = lines_about(ps(view, PLAIN), "out of memory")
    assert line.split()[:4] == ["m", "n", "cuda:0", "0"]


def test_colours_only_where_they_are_wanted() -> None:
    assert "\x1b[" not in ps(fleet_view(), PLAIN)
    assert "\x1b[32mready\x1b[0m" in ps(fleet_view(), True)


@given(rows=st.lists(st.tuples(st.text(max_size=10), st.text(max_size=10)), max_size=5))
def test_whatever_a_cell_holds_a_row_is_one_line_that_no_terminal_obeys(rows: list[tuple[str, str]]) -> None:
    text = table(("A", "B"), rows, PLAIN)
    assert text.splitlines() == text.split("\n") if text else not rows
    assert len(text.splitlines()) == (len(rows) + 1 if rows else 0)
    assert all(c.isprintable() or c == "\n" for c in text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"), (0.04, "0.0 s"), (9.96, "10.0 s"), (10, "10 s"), (119.4, "119 s"), (120, "2 min"),
        (7199, "119 min"), (7200, "2 h 0 min"), (93_600, "26 h 0 min"), (172_800, "2 d"),
    ],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 MiB"), (10_239, "10239 MiB"), (10_240, "10.0 GiB"), (81_920, "80.0 GiB"), (-5, "-5 MiB")]
)
def test_megabytes(count: int, text: str) -> None:
    assert megabytes(count) == text


def test_control_characters_are_shown_not_obeyed() -> None:
    assert plain("a\x1b]0;x\x07\r\n\u202eb") == "a�]0;x����b"

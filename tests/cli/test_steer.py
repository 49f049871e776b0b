"""What an operator does to the fleet: the command that is sent, what is said of it, and how refusals end."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import msgspec
import pytest

from cortex_cli.failures import Exit
from cortex_cli.render import explanation
from cortex_core import gateway_api
from cortex_core.gateway_api import Done, Explanation, Place, Room
from tests.cli.conftest import Ran, Server

Cortex = Callable[..., Ran]
Answering = Callable[[int, bytes], AbstractContextManager[Server]]

DONE = Done(model="tiny", neurons=("beast", "benjy"), seconds=1.25, let_go=("other",))
SENT: dict[str, tuple[str, str, dict[str, Any]]] = {
    # what is typed: the struct that has to arrive, where, and with what
    "load tiny": ("LoadCommand", "LOAD_PATH", {"model": "tiny"}),
    "load tiny --neuron beast": ("LoadCommand", "LOAD_PATH", {"model": "tiny", "neuron": "beast"}),
    "unload tiny": ("UnloadCommand", "UNLOAD_PATH", {"model": "tiny"}),
    "unload tiny --now --neuron beast": (
        "UnloadCommand",
        "UNLOAD_PATH",
        {"model": "tiny", "now": True, "neuron": "beast"},
    ),
    "pin tiny": ("PinCommand", "PIN_PATH", {"model": "tiny", "pinned": True}),
    "unpin tiny --neuron beast": ("PinCommand", "PIN_PATH", {"model": "tiny", "pinned": False, "neuron": "beast"}),
    "cordon beast --reason fan": ("CordonCommand", "CORDON_PATH", {"neuron": "beast", "reason": "fan"}),
    "uncordon beast": ("CordonCommand", "CORDON_PATH", {"neuron": "beast", "cordoned": False}),
}
TYPED = [*SENT, "explain tiny", "load tiny --dry-run"]


@pytest.mark.parametrize("typed", SENT)
def test_a_command_is_sent_as_the_api_has_it_and_its_result_is_said(
    typed: str, cortex: Cortex, answering: Answering
) -> None:
    kind, path, fields = SENT[typed]
    body = msgspec.json.encode(DONE)
    with answering(200, body) as server:
        ran = cortex(*typed.split(), "--gateway", server.url)
        as_json = cortex(*typed.split(), "--gateway", server.url, "--json")
    for asked in server.asked:
        assert (asked.method, asked.path) == ("POST", getattr(gateway_api, path))
        struct = getattr(gateway_api, kind)
        assert msgspec.convert(asked.body, struct) == struct(**fields)
    assert (ran.code, ran.err) == (Exit.OK, "")
    assert "beast" in ran.out
    assert ran.out.count("\n") == 1
    assert json.loads(as_json.out) == json.loads(body)


def test_a_load_tells_how_long_it_took_and_who_had_to_leave(cortex: Cortex, answering: Answering) -> None:
    with answering(200, msgspec.json.encode(DONE)) as server:
        said = cortex("load", "tiny", "--gateway", server.url).out
    for words in ("tiny", "beast", "1.2 s", "other"):
        assert words in said


REFUSALS: dict[int, list[tuple[str | None, Exit]]] = {
    404: [("model_not_found", Exit.NOT_FOUND), ("neuron_not_found", Exit.NOT_FOUND)],
    400: [("model_cannot_fit", Exit.DOES_NOT_FIT), (None, Exit.FAILED)],
    409: [("refused", Exit.REFUSED)],
    503: [("no_capacity", Exit.DOES_NOT_FIT), ("no_neuron", Exit.UNREACHABLE), ("load_failed", Exit.FAILED)],
    504: [("timeout", Exit.TIMED_OUT)],
}


@pytest.mark.parametrize("typed", TYPED)
@pytest.mark.parametrize(("status", "code", "ends"), [(s, *each) for s, some in REFUSALS.items() for each in some])
def test_a_refusal_ends_with_its_exit_code(
    typed: str, status: int, code: str | None, ends: Exit, cortex: Cortex, answering: Answering
) -> None:
    body = json.dumps({"error": {"message": "3 in flight", "code": code, "type": "x", "param": None}}).encode()
    with answering(status, body) as server:
        ran = cortex(*typed.split(), "--gateway", server.url)
    assert ran == (ends, "", "cortex: 3 in flight\n")


LOADS = Explanation(
    model="tiny",
    outcome="loads",
    reason="tiny fits after one leaves on beast",
    neuron="beast",
    after_s=12.0,
    must_leave=("other",),
    places=(
        Place(
            neuron="beast", possible=True, now=True, reason="fits after one leaves", need_mb=600,
            devices=(Room(id="cuda:0", memory_mb=1000, free_mb=100, must_leave=("other",)),),
        ),
        Place(
            neuron="benjy", possible=False, now=False, reason="too small: 500 MB", need_mb=600,
            devices=(Room(id="cuda:0", memory_mb=500, free_mb=500),),
        ),
    ),
)  # fmt: skip


@pytest.mark.parametrize("typed", ["explain tiny", "load tiny --dry-run"])
def test_an_explanation_says_where_after_what_how_long_and_why_not_elsewhere(
    typed: str, cortex: Cortex, answering: Answering
) -> None:
    body = msgspec.json.encode(LOADS)
    with answering(200, body) as server:
        ran, as_json = (cortex(*typed.split(), "--gateway", server.url, *more) for more in ([], ["--json"]))
    assert (ran.code, ran.err) == (Exit.OK, "")
    for words in ("loads", "beast", "12 s", "other", "benjy", "too small: 500 MB", "600 MiB"):
        assert words in ran.out
    assert json.loads(as_json.out) == json.loads(body)


def test_explaining_a_refusal_succeeds_but_a_dry_run_of_it_fails(cortex: Cortex, answering: Answering) -> None:
    """`explain` was asked why; `load --dry-run` was asked whether."""
    refused = Explanation(model="giant", outcome="refused", reason="needs 9 MB of 8", error="model_cannot_fit")
    with answering(200, msgspec.json.encode(refused)) as server:
        why = cortex("explain", "giant", "--gateway", server.url)
        whether = cortex("load", "giant", "--dry-run", "--gateway", server.url)
    assert why.code == Exit.OK
    assert "needs 9 MB of 8" in why.out
    assert whether.code == Exit.DOES_NOT_FIT
    assert "needs 9 MB of 8" in whether.err


@pytest.mark.parametrize("typed", ["load", "unload", "pin", "cordon", "explain", "load tiny --dry-run --neuron beast"])
def test_wrong_usage_is_2_and_asks_nobody(typed: str, cortex: Cortex, answering: Answering) -> None:
    with answering(200, b"{}") as server:
        assert cortex(*typed.split(), "--gateway", server.url).code == Exit.USAGE
    assert server.asked == []


def test_an_explanation_cannot_move_the_terminals_cursor() -> None:
    said = explanation(Explanation(model="m", outcome="waits", reason="\x1b[2J", must_leave=("\r\n",)))
    assert all(c.isprintable() or c == "\n" for c in said)
    assert "�" in said

"""The contract's values over the wire: what is sent is what arrives, and newer peers are understood."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct, structs

from cortex_core import neuron_api
from cortex_core.fleet import Profile
from cortex_core.neuron_api import API, REFUSALS, LoadRequest, Refusal, UnloadRequest, Victim, speaks
from tests.support.literals import literals
from tests.support.values import values_of

STRUCTS = {
    name: kind
    for name, kind in vars(neuron_api).items()
    if isinstance(kind, type) and issubclass(kind, Struct) and kind is not Struct
}
COMMANDS = {name: kind for name, kind in STRUCTS.items() if name.endswith("Request") or kind in (Victim, Profile)}
REPORTS = {name: kind for name, kind in STRUCTS.items() if name not in COMMANDS}


@pytest.mark.parametrize("kind", STRUCTS.values(), ids=STRUCTS)
def test_every_struct_arrives_as_it_was_sent(kind: type[Struct]) -> None:
    @settings(max_examples=8)
    @given(value=values_of(kind))
    def round_trip(value: Struct) -> None:
        assert msgspec.json.decode(msgspec.json.encode(value), type=kind) == value

    round_trip()


def a_value(kind: type[Struct]) -> dict[str, Any]:
    """The least that decodes: the required fields alone."""
    required = [f for f in structs.fields(kind) if f.required]
    stand_ins: dict[Any, Any] = {str: "x", int: 1, float: 1.0, bool: True}
    values: dict[str, Any] = {}
    for field in required:
        for candidate in (*stand_ins.values(), "", [], {}, "ok", "load", "running", "model", "ready"):
            try:
                msgspec.convert(candidate, field.type)
            except msgspec.ValidationError:
                continue
            values[field.encode_name] = candidate
            break
        else:
            values[field.encode_name] = a_value(field.type)
    return values


@pytest.mark.parametrize("kind", REPORTS.values(), ids=REPORTS)
def test_a_report_of_a_newer_neuron_is_understood(kind: type[Struct]) -> None:
    known = a_value(kind)
    assert msgspec.convert(known | {"of_a_newer_version": [1]}, kind) == msgspec.convert(known, kind)


@pytest.mark.parametrize("kind", COMMANDS.values(), ids=COMMANDS)
def test_a_command_with_a_word_that_is_not_understood_is_refused_by_name(kind: type[Struct]) -> None:
    known = a_value(kind)
    assert isinstance(msgspec.convert(known, kind), kind)
    with pytest.raises(msgspec.ValidationError, match="unknown field `evcit`"):
        msgspec.convert(known | {"evcit": []}, kind)


@pytest.mark.parametrize(
    ("kind", "body", "field"),
    [
        (LoadRequest, {"model": "../../etc"}, "$.model"),
        (LoadRequest, {"model_id": "a/b/c"}, "$.model_id"),
        (LoadRequest, {"model": "a\n"}, "$.model"),
        (LoadRequest, {"deadline_s": -1}, "$.deadline_s"),
        (LoadRequest, {"evict": [{"replica": "r", "version": 1, "mode": "cut"}]}, "$.evict[0].mode"),
        (LoadRequest, {"operation_id": "a b"}, "$.operation_id"),
        (LoadRequest, {"operation_id": "x" * 65}, "$.operation_id"),
        (LoadRequest, {"profile": {"id": "a", "vram_mb": -1}}, "$.profile.vram_mb"),
        (LoadRequest, {"placement": [{"id": "cuda:0", "memory_mb": -1}]}, "$.placement[0].memory_mb"),
        (UnloadRequest, {"mode": "now"}, "$.mode"),
        (UnloadRequest, {"drain_s": -0.1}, "$.drain_s"),
        (neuron_api.SleepRequest, {"replica": "r", "level": 3}, "$.level"),
        (neuron_api.DemandRequest, {"gateway": "g", "models": {"m": {"waiters": -1}}}, "$.models[...].waiters"),
    ],
)
def test_a_wrong_command_names_the_field(kind: type[Struct], body: dict[str, Any], field: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.json.decode(msgspec.json.encode(body), type=kind)
    said = str(caught.value)
    assert field in said or field.replace("[...]", "") in said


def test_the_originals_bodies_are_accepted() -> None:
    assert msgspec.json.decode(b'{"model_id":"Qwen/Qwen3-8B"}', type=LoadRequest).model_id == "Qwen/Qwen3-8B"
    assert msgspec.json.decode(b'{"model_id":"tiny"}', type=UnloadRequest).model_id == "tiny"


@pytest.mark.parametrize(
    ("theirs", "welcome"),
    [(None, True), (str(API), True), (f" {API} ", True), ("2", False), ("", False), ("1.0", False)],
)
def test_the_handshake(theirs: str | None, welcome: bool) -> None:
    assert speaks(theirs) is welcome


# ------------------------------------------------------------------------------------------------------- refusals

CONTRACT = {
    # (status, where trying again may help), as the contract's tables say
    "outrun": (409, "elsewhere"),
    "bad_request": (422, "never"),
    "model_cannot_fit": (400, "never"),
    "insufficient_memory": (503, "elsewhere"),
    "deadline": (504, "here"),
    "busy": (409, "elsewhere"),
    "drain_timeout": (409, "elsewhere"),
    "not_found": (404, "never"),
    "unsupported": (501, "never"),
    "unauthorized": (401, "never"),
    "loading": (503, "here"),
    "full": (503, "here"),
    "waking": (503, "here"),
    "not_loaded": (409, "elsewhere"),
    "draining": (409, "elsewhere"),
    "sleeping": (409, "elsewhere"),
    "cordoned": (409, "elsewhere"),
    "failed": (409, "elsewhere"),
    "context_exceeded": (400, "never"),
    "duplicate": (409, "never"),
}


@pytest.mark.parametrize("code", CONTRACT)
def test_the_table_of_refusals_says_what_the_contract_says(code: str) -> None:
    assert REFUSALS[code] == CONTRACT[code]


def test_every_refusal_has_an_error_status_and_a_way_on() -> None:
    for code, (status, retry) in REFUSALS.items():
        assert 400 <= status < 600, code
        assert retry in ("here", "elsewhere", "never"), code
        assert retry != "here" or status in (503, 504), f"{code}: the same neuron may be asked again only if it says so"


def test_the_neuron_refuses_with_no_code_that_the_table_lacks() -> None:
    used = literals("neuron", "Refused")
    assert used, "the neuron refuses nothing: is it called otherwise now?"
    assert used <= set(REFUSALS)


def test_a_refusal_says_no_more_than_it_knows() -> None:
    assert (
        msgspec.json.encode(Refusal(code="busy", message="3 in flight")) == b'{"code":"busy","message":"3 in flight"}'
    )


@given(value=values_of(Refusal), extra=st.text(max_size=5))
def test_a_refusal_of_a_newer_neuron_still_says_whether_the_request_was_executed(value: Refusal, extra: str) -> None:
    said = msgspec.to_builtins(value) | {"new": extra}
    assert msgspec.convert(said, Refusal).executed == value.executed

"""Requests whose keys no rule speaks of: they are not looked at further, and it would change nothing."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from cortex_core.dialects.body import parse
from cortex_core.errors import CortexError
from cortex_core.fleet import ModelFacts
from cortex_core.translate.chat import request
from cortex_core.translate.chat.caps import CHECKS, DROPPED, REFUSED
from cortex_core.translate.chat.request import RULED, ruled
from cortex_core.translate.chat.tools import Tools

SCALARS = st.none() | st.booleans() | st.integers(-5, 1 << 40) | st.floats(allow_nan=False) | st.text(max_size=5)
ANYTHING: st.SearchStrategy[Any] = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
KNOWN = ["model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "temperature", "seed"]
KEYS = st.sampled_from([*KNOWN, *sorted(RULED)]) | st.text(max_size=6)
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": ANYTHING})
)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Requests that are nearly right, and some that are cut or overwritten somewhere."""
    values = {"model": "m", "messages": draw(MESSAGES | ANYTHING), **draw(st.dictionaries(KEYS, ANYTHING, max_size=4))}
    body = bytearray(json.dumps(values, ensure_ascii=draw(st.booleans())).encode())
    for at in draw(st.lists(st.integers(0, len(body) - 1), max_size=2)):
        body[at] = draw(st.sampled_from(list(b'{}[]":,0n \\\xff')))
    return bytes(body)


@given(bodies())
def test_what_no_rule_speaks_of_no_rule_changes(body: bytes) -> None:
    try:
        values = parse(body)
    except CortexError:
        return
    if RULED.isdisjoint(values):
        sent = dict(values)
        assert ruled(sent) == Tools()
        assert {key: bytes(value) for key, value in sent.items()} == {k: bytes(v) for k, v in values.items()}


@given(bodies())
def test_a_rule_that_has_run_changes_no_answer(body: bytes) -> None:
    """The same bytes, or the same refusal. (A choice between tools, where there are none, is dropped.)"""
    try:
        values = parse(body)
        if not RULED.isdisjoint(values):
            return
    except CortexError:
        return
    assert outcome({**values}) == outcome({**values, "parallel_tool_calls": Raw(b"true")})


def outcome(values: dict[str, Any]) -> object:
    try:
        said = request(values, ModelFacts())
    except CortexError as error:
        return error.message, error.param
    return {key: bytes(value) for key, value in said.values.items()}, said.context


def test_every_key_of_every_rule_is_named() -> None:
    assert {*REFUSED, *DROPPED, *CHECKS, "tools", "tool_choice", "functions", "function_call"} <= RULED

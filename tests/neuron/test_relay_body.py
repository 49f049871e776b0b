"""The one thing that a relayed body gets: its place in the engine's queue."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron.api.relay import with_priority
from neuron.supervisor.refusals import Refused
from tests.support.values import JSON


@given(body=st.dictionaries(st.text(max_size=5), JSON, min_size=1, max_size=3), priority=st.integers(0, 9))
def test_a_body_keeps_what_it_has_and_ends_with_its_priority(body: dict[str, object], priority: int) -> None:
    changed = msgspec.json.decode(with_priority(msgspec.json.encode(body) + b" \n", str(priority)))
    assert changed == body | {"priority": 9 - priority}


def test_a_clients_own_priority_does_not_count() -> None:
    assert msgspec.json.decode(with_priority(b'{"priority": -99, "n": 1}', "0"))["priority"] == 9


@pytest.mark.parametrize("body", [b"", b"{}", b"{ }", b"[1]", b"null", b"{", b'{"a": 1'])
def test_what_is_no_request_stays_as_it_is(body: bytes) -> None:
    assert with_priority(body, "3") == body


def test_without_a_priority_nothing_changes() -> None:
    assert with_priority(b'{"a": 1} ', None) == b'{"a": 1} '


@pytest.mark.parametrize("given_", ["", "-1", "10", "high", "٣"])
def test_only_a_digit_is_a_priority(given_: str) -> None:
    with pytest.raises(Refused, match="expected 0 to 9"):
        with_priority(b'{"a": 1}', given_)

"""rule E: one table of errors, in each dialect as its clients understand it."""

from __future__ import annotations

import json
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct, convert

from cortex_core.errors import KINDS, MAX_MESSAGE, CortexError, Dialect, Rendered, render, render_event
from tests.support.literals import literals

OPENAI = [dialect for dialect in Dialect if dialect is not Dialect.ANTHROPIC_MESSAGES]
every_kind = pytest.mark.parametrize("kind", KINDS)
every_dialect = pytest.mark.parametrize("dialect", Dialect)


def header(rendered: Rendered, name: bytes) -> bytes | None:
    return dict(rendered.headers).get(name)


class OpenAIError(Struct, forbid_unknown_fields=True):
    """As openai-python's types/shared/error_object.py and the API reference have it, and what we add."""

    message: str
    type: str
    param: str | None
    code: str | None
    details: dict[str, object] = {}


class AnthropicError(Struct, forbid_unknown_fields=True):
    """As anthropic-python's types/shared/error_response.py and the API reference have it."""

    type: Literal["error"]
    error: dict[Literal["type", "message"], str]
    request_id: str | None


def check_envelope(body: bytes, dialect: Dialect) -> str:
    """The message of an error that is valid in its dialect."""
    envelope = json.loads(body)
    if dialect is Dialect.ANTHROPIC_MESSAGES:
        inner = convert(envelope, AnthropicError).error
        assert inner["type"] in ANTHROPIC_STATUS
        return inner["message"]
    assert set(envelope) == {"error"}
    return convert(envelope["error"], OpenAIError).message


# Anthropic's list of types at https://docs.claude.com/en/api/errors.
ANTHROPIC_STATUS = {
    "invalid_request_error": {400, 405, 409, 501},
    "authentication_error": {401},
    "permission_error": {403},
    "not_found_error": {404},
    "request_too_large": {413},
    "rate_limit_error": {429},
    "api_error": {500},
    "timeout_error": {504},
    "overloaded_error": {529},
}


@every_kind
@every_dialect
def test_every_error_is_what_the_dialects_clients_read(kind: str, dialect: Dialect) -> None:
    rendered = render(CortexError(kind, "why", param="model"), dialect, "req_1")
    assert check_envelope(rendered.body, dialect) == "why"
    assert header(rendered, b"content-type") == b"application/json"
    assert header(rendered, b"x-request-id") == b"req_1"


@every_kind
def test_anthropics_types_stand_with_anthropics_statuses(kind: str) -> None:
    rule = KINDS[kind]
    assert rule.anthropic_status in ANTHROPIC_STATUS[rule.anthropic_type]


@every_kind
@every_dialect
def test_rule_retry_an_error_that_may_pass_says_when_and_any_other_says_never(kind: str, dialect: Dialect) -> None:
    rendered = render(CortexError(kind, "why"), dialect)
    after = header(rendered, b"retry-after")
    if KINDS[kind].retryable:
        assert after is not None
        assert 1 <= int(after) <= 30
        assert rendered.status in (429, 503, 529)
        assert header(rendered, b"x-should-retry") is None
    else:
        assert after is None
        final = 400 <= rendered.status < 500 and rendered.status not in (408, 409, 429)  # what SDKs do not repeat
        assert final or header(rendered, b"x-should-retry") == b"false"


def test_many_refused_at_once_do_not_come_back_at_once() -> None:
    drawn = {CortexError("loading", "").retry_after_s for _ in range(500)}
    assert drawn == set(range(1, 31))


@given(seconds=st.floats(0, 1000))
def test_a_known_time_to_come_again_is_told_and_never_nothing(seconds: float) -> None:
    told = header(render(CortexError("loading", "", retry_after_s=seconds), Dialect.OPENAI_CHAT), b"retry-after")
    assert told is not None
    assert int(told) == max(1, round(seconds))


@every_kind
def test_an_error_within_a_stream_is_one_event_of_the_dialect(kind: str) -> None:
    error = CortexError(kind, "line one\nline two")
    for dialect in OPENAI:
        event = render_event(error, dialect)
        assert event.startswith(b"data: {")
        assert event.endswith(b"}\n\n")
        assert event.count(b"\n") == 2, "a line break within the data would end the event early"
        assert check_envelope(event[len(b"data: ") :], dialect) == error.message
    event = render_event(error, Dialect.ANTHROPIC_MESSAGES, "req_1")
    name, data, *rest = event.split(b"\n")
    assert (name, rest) == (b"event: error", [b"", b""])
    assert json.loads(data.removeprefix(b"data: ")) == {
        "type": "error",
        "error": {"type": KINDS[kind].anthropic_type, "message": error.message},
        "request_id": "req_1",
    }


@given(message=st.text(max_size=2 * MAX_MESSAGE), kind=st.sampled_from(sorted(KINDS)), dialect=st.sampled_from(Dialect))
def test_a_message_is_bounded_whatever_it_quotes(message: str, kind: str, dialect: Dialect) -> None:
    body = json.loads(render(CortexError(kind, message), dialect).body)
    assert body["error"]["message"] == message[:MAX_MESSAGE]


def test_numbers_go_with_the_error_that_has_them() -> None:
    error = CortexError("model_cannot_fit", "no", details={"need_mb": 9000, "largest_mb": 8000})
    body = json.loads(render(error, Dialect.OPENAI_CHAT).body)
    assert body["error"]["details"] == {"need_mb": 9000, "largest_mb": 8000}
    assert body["error"]["code"] == "model_cannot_fit"


def test_a_kind_that_is_not_in_the_table_is_a_bug_found_at_once() -> None:
    with pytest.raises(KeyError):
        CortexError("oops", "")


def test_the_gateway_raises_no_kind_that_the_table_lacks() -> None:
    used = literals("cortex_gateway", "CortexError")
    assert used, "the gateway raises nothing: is it called otherwise now?"
    assert used <= set(KINDS)


@every_kind
def test_codes_that_clients_know_are_the_vendors(kind: str) -> None:
    known = {
        "context_exceeded": (400, "context_length_exceeded"),  # Codex compacts on it
        "model_not_found": (404, "model_not_found"),
        "unauthorized": (401, "invalid_api_key"),
        "rate_limited": (429, "rate_limit_exceeded"),
    }
    rule = KINDS[kind]
    assert known.get(kind, (rule.status, rule.openai_code)) == (rule.status, rule.openai_code)

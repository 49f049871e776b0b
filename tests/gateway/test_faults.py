"""Which refusal may be decided again, and that every one of the contract ends in an answer a client understands."""

from __future__ import annotations

import msgspec
import pytest

from cortex_core.errors import Dialect
from cortex_core.neuron_api import REFUSALS, Refusal, RefusalBody
from cortex_gateway.policy.faults import decide_again, engine_error, read_refusal, told

AGAIN = {
    "loading", "full", "waking", "not_loaded", "draining", "sleeping", "cordoned", "outrun", "failed", "shutting_down",
}  # fmt: skip


@pytest.mark.parametrize("code", sorted(AGAIN))
def test_what_was_not_executed_is_decided_again(code: str) -> None:
    refusal = Refusal(code=code, message="")
    assert decide_again(refusal)
    assert not decide_again(msgspec.structs.replace(refusal, executed="unknown"))
    assert not decide_again(msgspec.structs.replace(refusal, executed="yes"))


@pytest.mark.parametrize("code", sorted(REFUSALS))
def test_every_refusal_can_be_read_and_told(code: str) -> None:
    refusal = Refusal(code=code, message="because", field="top_k")
    assert read_refusal(msgspec.json.encode(RefusalBody(refusal))) == refusal
    error = told(refusal)
    assert error.rule.status < 500 or error.rule.retryable or code in {"unsupported", "deadline"}


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"\xff", b'{"error":"text"}', b'{"error":{"code":400,"message":"x"}}',
             b'{"error":{"code":"unheard_of","message":"x"}}', b"[" * 5000],
)  # fmt: skip
def test_what_is_no_refusal_is_the_engines(body: bytes) -> None:
    assert read_refusal(body) is None
    assert engine_error(body, Dialect.OPENAI_CHAT, 500).kind == "upstream_failed"


@pytest.mark.parametrize(
    ("message", "dialect", "kind", "param"),
    [
        ("This model's maximum context length is 8 tokens.", Dialect.OPENAI_CHAT, "context_exceeded", "messages"),
        (
            "The prompt is longer than the maximum model length",
            Dialect.OPENAI_COMPLETIONS,
            "context_exceeded",
            "prompt",
        ),
        ("top_p must be in (0, 1]", Dialect.OPENAI_CHAT, "bad_request", "top_p"),
    ],
)
def test_rule_E_05_too_long_is_told_from_other_mistakes(message: str, dialect: Dialect, kind: str, param: str) -> None:
    body = msgspec.json.encode({"error": {"message": message, "param": "top_p", "code": 400}})
    error = engine_error(body, dialect, 400)
    assert (error.kind, error.param, error.message) == (kind, param, message)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (b'{"message":"odd","code":400}', "bad_request"),
        (b'{"message":"secret","code":500}', "upstream_failed"),
        (b'{"message":"secret","code":"x"}', "upstream_failed"),
        (b'"text"', "upstream_failed"),
    ],
)
def test_an_error_inside_a_stream_has_its_status_inside(error: bytes, kind: str) -> None:
    found = engine_error(error, Dialect.OPENAI_CHAT)
    assert found.kind == kind
    assert "secret" not in found.message


def test_rule_E_07_E_08_an_engines_own_validation_is_one_sentence_about_a_field() -> None:
    message = (
        "2 validation errors:\n  {'type': 'too_long', 'loc': 'body.stop', 'msg': 'List should have at most 4 items', "
        "'input': ['a', 'b']}\n\n  File \"/x/vllm/entrypoints/api_router.py\", line 5"
    )
    error = engine_error(msgspec.json.encode({"error": {"message": message, "code": 400}}), Dialect.OPENAI_CHAT, 400)
    assert (error.message, error.param) == ("`stop`: List should have at most 4 items", "stop")

"""What a neuron or an engine answers instead of an answer, told to the client in terms of `cortex_core.errors`.

Messages are the engine's only where they speak of the request: what went wrong inside is nothing a client may see.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
from msgspec import Struct

from cortex_core.errors import CortexError, Dialect
from cortex_core.neuron_api import REFUSALS, Refusal, RefusalBody
from cortex_gateway.policy.usage import NOT_JSON

_TOO_LONG = re.compile(r"maximum context length|maximum model length|longer than the maximum", re.IGNORECASE)
_CONTEXT = re.compile(r"maximum (?:context|model) length (?:is|of) (\d+)", re.IGNORECASE)
_PROMPT = re.compile(r"contains (?:at least )?(\d+) input tokens|prompt \(length (\d+)\)", re.IGNORECASE)
_PARAMS = {Dialect.OPENAI_CHAT: "messages", Dialect.ANTHROPIC_MESSAGES: "messages", Dialect.OPENAI_RESPONSES: "input"}
_VALIDATION = re.compile(r"'loc': '(?:body\.)?([^']+)', 'msg': '([^']+)'")  # pydantic's list, as vLLM prints it
_BROKEN = "the engine could not answer"

_KINDS = {
    "context_exceeded": "context_exceeded",
    "bad_request": "bad_request",
    "body_too_large": "body_too_large",
    "model_cannot_fit": "model_cannot_fit",
    "unsupported": "unsupported",
    "deadline": "timeout",
}


class _Error(Struct):
    message: str = ""
    param: str | None = None
    code: Any = None


class _Envelope(Struct):
    error: _Error | None = None
    message: str = ""


def read_refusal(body: bytes) -> Refusal | None:
    """The neuron's refusal; None: the body is the engine's, or nobody's."""
    try:
        refusal = msgspec.json.decode(body, type=RefusalBody).error
    except NOT_JSON:
        return None
    return refusal if refusal.code in REFUSALS else None


def decide_again(refusal: Refusal) -> bool:
    """Whether the request was certainly not executed, and may be served here later or elsewhere."""
    return refusal.executed == "no" and REFUSALS[refusal.code][1] != "never"


def told(refusal: Refusal) -> CortexError:
    """A refusal that is final for this request."""
    kind = _KINDS.get(refusal.code)
    if kind is None:
        return CortexError("upstream_failed", _BROKEN)
    return CortexError(kind, refusal.message, param=refusal.field or None, details=refusal.details)


def engine_error(body: bytes, dialect: Dialect, status: int | None = None) -> CortexError:
    """The engine's own error: an answer with `status`, or, without one, the `error` inside a stream.

    A 4xx speaks of the request and is passed on; anything else is ours to answer for.
    """
    try:
        if status is None:
            error = msgspec.json.decode(body, type=_Error)
            status = error.code if isinstance(error.code, int) else 500
        else:
            envelope = msgspec.json.decode(body, type=_Envelope)
            error = envelope.error or _Error(envelope.message)
    except NOT_JSON:
        error, status = _Error(), status or 500
    if status in (400, 409, 415, 422):
        if _TOO_LONG.search(error.message):
            return _too_long(error.message, _PARAMS.get(dialect, "prompt"))
        if (found := _VALIDATION.search(error.message)) is not None:
            return CortexError("bad_request", f"`{found[1]}`: {found[2]}", param=found[1])
        return CortexError("bad_request", error.message or "the engine refused the request", param=error.param)
    if status == 413:
        return CortexError("body_too_large", error.message or "the request is too large")
    if status == 429:
        return CortexError("rate_limited", "the engine takes no more requests now")
    if status in (404, 405, 501):  # a model of another task has no such route, or one that does nothing (L-06)
        return CortexError("bad_request", "the model does not offer this: it was made for another task", param="model")
    return CortexError("upstream_failed", _BROKEN)


def _too_long(message: str, param: str) -> CortexError:
    """With the numbers, where the engine says them: agents shorten the conversation by them."""
    details = {}
    for name, pattern in (("context", _CONTEXT), ("prompt_tokens", _PROMPT)):
        if (found := pattern.search(message)) is not None:
            details[name] = int(found[found.lastindex or 1])
    return CortexError("context_exceeded", message, param=param, details=details)

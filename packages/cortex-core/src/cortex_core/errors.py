"""What can go wrong with a client's request: one table, rendered in the caller's dialect.

Sources: OpenAI and Anthropic API references on errors; the statuses are those that their SDKs and the coding
agents treat as meant (a retryable one always says when, a final one is 400 or 404).
"""

from __future__ import annotations

import enum
import random
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec


class Dialect(enum.StrEnum):
    OPENAI_CHAT = "openai-chat"
    OPENAI_COMPLETIONS = "openai-completions"
    OPENAI_RESPONSES = "openai-responses"
    ANTHROPIC_MESSAGES = "anthropic-messages"
    OPENAI_EMBEDDINGS = "openai-embeddings"
    OPENAI_AUDIO = "openai-audio"  # forms with a file
    ENGINE = "engine"  # what engines offer under names of their own: scores, ranks, tokens

    __hash__ = str.__hash__  # enum's own is a call of Python code, and dialects are keys on every request's way


class Rule(NamedTuple):
    """How one kind of error looks."""

    status: int
    openai_type: str
    openai_code: str | None
    anthropic_status: int
    anthropic_type: str
    retryable: bool = False


INVALID = "invalid_request_error"

KINDS: Mapping[str, Rule] = {
    "bad_request": Rule(400, INVALID, None, 400, INVALID),
    "context_exceeded": Rule(400, INVALID, "context_length_exceeded", 400, INVALID),
    "previous_response_not_found": Rule(400, INVALID, "previous_response_not_found", 400, INVALID),
    "model_cannot_fit": Rule(400, INVALID, "model_cannot_fit", 400, INVALID),
    "model_unusable": Rule(400, INVALID, "model_unusable", 400, INVALID),
    "unauthorized": Rule(401, INVALID, "invalid_api_key", 401, "authentication_error"),
    "forbidden": Rule(403, "permission_error", None, 403, "permission_error"),
    "model_not_found": Rule(404, INVALID, "model_not_found", 404, "not_found_error"),
    "neuron_not_found": Rule(404, INVALID, "neuron_not_found", 404, "not_found_error"),
    "refused": Rule(409, INVALID, "refused", 409, INVALID),  # by a neuron, to an operator
    "not_found": Rule(404, INVALID, "not_found", 404, "not_found_error"),
    "method_not_allowed": Rule(405, INVALID, "method_not_allowed", 405, INVALID),
    "body_too_large": Rule(413, INVALID, "request_too_large", 413, "request_too_large"),
    "rate_limited": Rule(429, "rate_limit_error", "rate_limit_exceeded", 429, "rate_limit_error", True),
    "loading": Rule(503, "server_error", "model_loading", 529, "overloaded_error", True),
    "no_capacity": Rule(503, "server_error", "no_capacity", 529, "overloaded_error", True),
    "queue_full": Rule(503, "server_error", "queue_full", 529, "overloaded_error", True),
    "no_neuron": Rule(503, "server_error", "no_neuron", 529, "overloaded_error", True),
    "load_failed": Rule(503, "server_error", "load_failed", 529, "overloaded_error", True),
    "upstream_failed": Rule(503, "server_error", "upstream_failed", 529, "overloaded_error", True),
    "shutting_down": Rule(503, "server_error", "shutting_down", 529, "overloaded_error", True),
    "timeout": Rule(504, "server_error", "timeout", 504, "timeout_error"),
    "unsupported": Rule(501, INVALID, "not_supported", 501, INVALID),
    "internal": Rule(500, "server_error", None, 500, "api_error"),
}

MAX_MESSAGE = 1000  # characters; a message never echoes a body


class CortexError(Exception):
    """A failure that a client is told of.

    Args:
        kind: a key of `KINDS`.
        message: for people; names the field where there is one.
        param: the request's field at fault.
        retry_after_s: when to come again, for retryable kinds; drawn from 1 to 30 when absent, so that many
            refused at once do not come back at once.
        details: numbers that a program may want, such as the megabytes of `model_cannot_fit`.
        event: the engine's own words, kept when the error is passed on.
    """

    def __init__(
        self,
        kind: str,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.rule = KINDS[kind]
        self.message = message[:MAX_MESSAGE]
        self.param = param
        self.details = dict(details or {})
        self.retry_after_s = retry_after_s
        if self.rule.retryable and retry_after_s is None:
            self.retry_after_s = random.randint(1, 30)


class Rendered(NamedTuple):
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


def envelope(error: CortexError, dialect: Dialect, request_id: str = "") -> dict[str, Any]:
    """The body of an error in the caller's dialect, as plain values."""
    if dialect is Dialect.ANTHROPIC_MESSAGES:
        inner: dict[str, Any] = {"type": error.rule.anthropic_type, "message": _in_anthropics_words(error)}
        return {"type": "error", "error": inner, "request_id": request_id or None}
    inner = {
        "message": error.message,
        "type": error.rule.openai_type,
        "param": error.param,
        "code": error.rule.openai_code,
    }
    if error.details:
        inner["details"] = error.details
    return {"error": inner}


def _in_anthropics_words(error: CortexError) -> str:
    """Messages that Claude Code reads: it compacts only when it is told so in exactly these words (protocol E-05)."""
    prompt, limit = error.details.get("prompt_tokens"), error.details.get("context")
    if error.kind == "context_exceeded" and isinstance(limit, int):
        return f"prompt is too long: {max(prompt or 0, limit + 1)} tokens > {limit} maximum"
    return error.message


def render(error: CortexError, dialect: Dialect, request_id: str = "") -> Rendered:
    """An error before the first byte of an answer: status, headers and body."""
    status = error.rule.anthropic_status if dialect is Dialect.ANTHROPIC_MESSAGES else error.rule.status
    headers = [(b"content-type", b"application/json")]
    if error.rule.retryable:
        headers.append((b"retry-after", b"%d" % max(1, round(error.retry_after_s or 1))))
    elif status >= 500 or status == 409:  # both of which the SDKs would repeat
        headers.append((b"x-should-retry", b"false"))
    if request_id:
        headers.append((b"x-request-id", request_id.encode()))
        if dialect is Dialect.ANTHROPIC_MESSAGES:
            headers.append((b"request-id", request_id.encode()))
    return Rendered(status, headers, msgspec.json.encode(envelope(error, dialect, request_id)))


def render_event(error: CortexError, dialect: Dialect, request_id: str = "") -> bytes:
    """An error after the first byte: the stream's last event. The connection is then cut, never ended cleanly."""
    data = msgspec.json.encode(envelope(error, dialect, request_id))
    if dialect is Dialect.ANTHROPIC_MESSAGES:
        return b"event: error\ndata: " + data + b"\n\n"
    return b"data: " + data + b"\n\n"

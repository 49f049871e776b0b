"""The response object of OpenAI Responses, in every state of an answer (rules R-07, E-06)."""

from __future__ import annotations

from typing import Any

from cortex_core.errors import CortexError
from cortex_core.translate.chat_events import Usage
from cortex_core.translate.responses.request import Context

# What a response says where its request said nothing. Each key is there in every response, for strict readers.
_DEFAULTS: dict[str, Any] = {
    "instructions": None,
    "tools": [],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "temperature": None,
    "top_p": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "reasoning": {"effort": None, "summary": None},
    "text": {"format": {"type": "text"}},
    "user": None,
    "prompt_cache_key": None,
    "safety_identifier": None,
    "top_logprobs": 0,
}
# What is so for every response: nothing is stored, and nothing is cut off at the front.
_FIXED: dict[str, Any] = {
    "background": False,
    "previous_response_id": None,
    "service_tier": "default",
    "store": False,
    "truncation": "disabled",
}
# Codes with which Codex tells the kinds of failure apart: it repeats what is a server_error or a rate limit, and gives
# up on the rest. "server_is_overloaded" would end its turn (protocol E-06).
_CODES = {"context_exceeded": "context_length_exceeded"}
_AGAIN = {"upstream_failed", "timeout", "internal"}  # which may be repeated at once


class Frame:
    """What all response objects of one answer have in common."""

    __slots__ = ("_fields",)

    def __init__(self, context: Context, response_id: str, created: int) -> None:
        self._fields: dict[str, Any] = {
            "id": response_id,
            "object": "response",
            "created_at": created,
            "model": context.model,
            **_DEFAULTS,
            **context.echo,
            **_FIXED,
        }

    def response(
        self,
        status: str,
        output: list[dict[str, Any]],
        *,
        usage: Usage | None = None,
        error: dict[str, Any] | None = None,
        incomplete: str | None = None,
    ) -> dict[str, Any]:
        """The object in one state. `incomplete` is the reason why an answer ended too early."""
        return {
            **self._fields,
            "status": status,
            "error": error,
            "incomplete_details": {"reason": incomplete} if incomplete else None,
            "output": output,
            "usage": tokens(usage) if usage is not None else None,
        }


def tokens(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": usage.created_tokens},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def failure(error: CortexError) -> dict[str, Any]:
    """The error inside a failed response, with a code that makes agents repeat what can be repeated."""
    message = error.message
    if error.kind in _AGAIN:
        code = "server_error"
    elif error.rule.retryable:
        code = "rate_limit_exceeded"
        message = f"{message}. Please try again in {max(1, round(error.retry_after_s or 1))}s."
    else:
        code = _CODES.get(error.kind, "invalid_prompt")
    return {"code": code, "message": message}

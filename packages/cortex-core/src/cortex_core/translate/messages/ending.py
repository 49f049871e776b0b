"""How an answer ended and what it took, in Anthropic's words (protocol B-04, B-06)."""

from __future__ import annotations

from typing import Any

from cortex_core.translate.chat_events import Usage
from cortex_core.translate.messages.request import Context

Stop = tuple[str, str | None]
"""stop_reason and stop_sequence."""


def stop(context: Context, finish: str, met: Any, usage: Usage, *, calls: int, broken: int) -> Stop:
    """Why the answer ended.

    Args:
        finish: the engine's finish_reason.
        met: the engine's stop_reason: the stop string that was met.
        calls: how many tool calls are complete.
        broken: how many are not. One is enough to keep all from being run.
    """
    if context.prewarm:
        return "max_tokens", None
    if finish == "length":
        used = usage.prompt_tokens + usage.completion_tokens
        full = context.window and used >= context.window and usage.completion_tokens < context.max_tokens
        return ("model_context_window_exceeded" if full else "max_tokens"), None
    if finish == "content_filter":
        return "refusal", None
    if calls and not broken:
        return "tool_use", None
    if isinstance(met, str) and met:
        return "stop_sequence", met
    return ("max_tokens" if broken else "end_turn"), None


def stop_details(reason: str) -> dict[str, Any] | None:
    return {"type": "refusal", "category": None, "explanation": None} if reason == "refusal" else None


def tokens(usage: Usage, *, prewarm: bool = False) -> dict[str, Any]:
    """Usage whose input parts sum to the prompt, whatever the engine claims of its cache."""
    cached = min(usage.cached_tokens, usage.prompt_tokens)
    created = min(usage.created_tokens, usage.prompt_tokens - cached)
    return {
        "input_tokens": usage.prompt_tokens - cached - created,
        "cache_creation_input_tokens": created,
        "cache_read_input_tokens": cached,
        "cache_creation": {"ephemeral_5m_input_tokens": created, "ephemeral_1h_input_tokens": 0},
        "output_tokens": 0 if prewarm else usage.completion_tokens,
        "output_tokens_details": {"thinking_tokens": 0 if prewarm else usage.reasoning_tokens},
        "service_tier": "standard",
    }

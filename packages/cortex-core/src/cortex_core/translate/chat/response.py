"""A whole chat answer, spliced: the requested model, reasoning under both names, no truncated call (C-09 to C-11)."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

from cortex_core.dialects.body import NOT_JSON, absent, encode, starts
from cortex_core.errors import CortexError
from cortex_core.translate.calls import as_object
from cortex_core.translate.chat.request import ChatContext
from cortex_core.translate.chat.tools import unshimmed
from cortex_core.translate.chat_events import GAVE_UP

VLLM_NULLS = (
    "prompt_logprobs", "prompt_token_ids", "prompt_text", "token_ids", "routed_experts", "kv_transfer_params",
    "ec_transfer_params", "metrics", "stop_reason",
)  # fmt: skip
"""Fields of vLLM's own. One that says something was asked for."""

Values = dict[str, Raw]

_values = msgspec.json.Decoder(Values).decode
_choices = msgspec.json.Decoder(list[Values]).decode
_string = msgspec.json.Decoder(str | None).decode
_any = msgspec.json.Decoder().decode


def response(body: bytes, context: ChatContext) -> bytes:
    """The answer for the client.

    Raises:
        CortexError: upstream_failed; the engine's answer is none.
    """
    try:
        answer = _values(body)
        choices = [_choice(one, context) for one in _choices(answer["choices"])]
    except (*NOT_JSON, KeyError):
        raise CortexError("upstream_failed", "the engine's answer could not be read") from None
    answer["model"] = Raw(encode(context.model))
    answer["choices"] = Raw(encode(choices))
    return encode(without_nulls(answer))


def without_nulls(values: Values) -> Values:
    return {key: raw for key, raw in values.items() if key not in VLLM_NULLS or not absent(raw)}


def finish(reason: str, *, complete: int, broken: int) -> str:
    """A finish reason as clients act on it: `tool_calls` exactly where there are complete calls to be run."""
    if reason in ("stop", "tool_calls", "function_call", "repetition"):
        if broken:
            return "length"
        return "tool_calls" if complete else "stop"
    return reason


def _choice(choice: Values, context: ChatContext) -> Values:
    reason = _string(choice["finish_reason"]) if "finish_reason" in choice else "stop"
    if reason in GAVE_UP:
        raise CortexError("upstream_failed", "the engine gave up on the answer")
    complete = broken = 0
    if "message" in choice and starts(choice["message"]) == b"{":
        message = _values(choice["message"])
        if "reasoning" in message and "reasoning_content" not in message:
            message["reasoning_content"] = message["reasoning"]
        if not absent(message.get("tool_calls")):
            complete, broken = _calls(message, context, truncated=reason == "length")
        choice["message"] = Raw(encode(message))
    reason = finish(reason or "stop", complete=complete, broken=broken)
    if reason == "tool_calls" and context.tools.legacy:
        reason = "function_call"
    choice["finish_reason"] = Raw(encode(reason))
    return without_nulls(choice)


def _calls(message: Values, context: ChatContext, *, truncated: bool) -> tuple[int, int]:
    """Keeps the calls that are complete; of a truncated answer the last one is not, however it looks."""
    calls = _any(message["tool_calls"])
    if not isinstance(calls, list):
        return 0, 0
    kept = [call for call in calls if _whole(call)]
    if truncated and calls and kept and kept[-1] is calls[-1]:
        kept.pop()
    if len(kept) == len(calls) and not context.tools.custom and not context.tools.legacy:
        return len(kept), 0  # their bytes stay
    del message["tool_calls"]
    if kept and context.tools.legacy:
        message["function_call"] = Raw(encode(kept[0]["function"]))
    elif kept:
        message["tool_calls"] = Raw(encode([custom_call(call, context) for call in kept]))
    return len(kept), len(calls) - len(kept)


def _whole(call: Any) -> bool:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not function.get("name") or not isinstance(function["name"], str):
        return False
    arguments = function.get("arguments")
    return isinstance(arguments, str) and as_object(arguments) is not None


def custom_call(call: dict[str, Any], context: ChatContext) -> dict[str, Any]:
    """A complete call in the client's terms."""
    function = call["function"]
    if function["name"] not in context.tools.custom:
        return call
    text = unshimmed(as_object(function["arguments"]) or "{}")
    return {"id": call.get("id"), "type": "custom", "custom": {"name": function["name"], "input": text}}

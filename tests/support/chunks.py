"""Pieces of a chat stream as engines send them."""

from __future__ import annotations

import json
from typing import Any

DONE = b"data: [DONE]\n\n"


def event(value: Any) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **more: Any) -> bytes:
    """One chunk with one choice. `usage` and `error` stand beside it, whatever else inside it."""
    outer = {key: more.pop(key) for key in ("usage", "model") if key in more}
    choice = {"index": 0, "delta": delta or {}, "logprobs": None, "finish_reason": finish, "token_ids": None, **more}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1760000000, "model": "tiny"}
    return event({**head, "choices": [choice], **outer})


def role(**more: Any) -> bytes:
    return chunk({"role": "assistant", "content": ""}, **more)


def text(said: str) -> bytes:
    return chunk({"content": said})


def thought(said: str) -> bytes:
    return chunk({"reasoning": said})


def call(index: int | None, arguments: str = "", *, id: str | None = None, name: str | None = None) -> bytes:  # noqa: A002
    function = {"arguments": arguments, **({"name": name} if name is not None else {})}
    piece: dict[str, Any] = {"function": function}
    if index is not None:
        piece["index"] = index
    if id is not None:
        piece |= {"id": id, "type": "function"}
    return chunk({"tool_calls": [piece]})


def counts(prompt: int = 10, completion: int = 5, *, cached: int = 0, created: int = 0, reasoning: int = 0) -> Any:
    return {
        "prompt_tokens": prompt,
        "total_tokens": prompt + completion,
        "completion_tokens": completion,
        "prompt_tokens_details": {"cached_tokens": cached, "created_cache_tokens": created},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


def usage(prompt: int = 10, completion: int = 5, **more: int) -> bytes:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1760000000, "model": "tiny"}
    return event({**head, "choices": [], "usage": counts(prompt, completion, **more)})


def end(finish: str = "stop", **more: Any) -> bytes:
    return chunk({"content": ""}, finish, **more) + usage() + DONE


def answer(message: dict[str, Any], finish: str | None = "stop", **more: Any) -> bytes:
    """A whole answer, as vLLM writes it: with its nulls."""
    choice = {
        "index": 0, "message": {"role": "assistant", "content": None, **message}, "logprobs": None,
        "finish_reason": finish, "stop_reason": more.pop("stop_reason", None), "token_ids": None,
    }  # fmt: skip
    return json.dumps(
        {
            "id": "chatcmpl-1", "object": "chat.completion", "created": 1760000000, "model": "tiny",
            "choices": [choice], "usage": counts(), "prompt_logprobs": None, "kv_transfer_params": None, **more,
        }
    ).encode()  # fmt: skip


def function(identity: str, name: str, arguments: Any) -> dict[str, Any]:
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}

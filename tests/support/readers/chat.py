"""A chat stream as the strictest clients take it: Zed's types with integer indices, the AI SDK, openai-py."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.support.readers.framing import events

FINISHES = {"stop", "length", "tool_calls", "content_filter", "function_call"}


@dataclass
class Choice:
    text: str = ""
    reasoning: str = ""
    calls: dict[int, dict[str, Any]] = field(default_factory=dict)
    finish: str = ""
    legacy: dict[str, Any] | None = None


@dataclass
class Read:
    choices: dict[int, Choice] = field(default_factory=dict)
    usage: dict[str, Any] | None = None
    models: set[str] = field(default_factory=set)
    chunks: list[dict[str, Any]] = field(default_factory=list)


def read(stream: bytes) -> Read:
    """What a whole stream brings. Asserts everything that some client relies on."""
    found = events(stream, named=False)
    assert found, "nothing came"
    assert found[-1][1] == "[DONE]", "no [DONE]"
    answer = Read()
    for _, chunk in found[:-1]:
        assert chunk["object"] == "chat.completion.chunk"
        assert isinstance(chunk["created"], int)
        assert isinstance(chunk["id"], str)
        answer.models.add(chunk["model"])
        answer.chunks.append(chunk)
        if (usage := chunk.get("usage")) is not None:
            for key in ("prompt_tokens", "completion_tokens", "total_tokens"):
                assert type(usage[key]) is int
            answer.usage = usage
        for choice in chunk["choices"]:
            assert type(choice["index"]) is int
            _choice(answer.choices.setdefault(choice["index"], Choice()), choice)
    for one in answer.choices.values():
        assert one.finish in FINISHES, f"finish_reason {one.finish!r}"
        assert not (one.calls and one.finish == "stop")
    return answer


def _choice(so_far: Choice, choice: dict[str, Any]) -> None:
    delta = choice["delta"]
    so_far.text += delta.get("content") or ""
    assert delta.get("reasoning") == delta.get("reasoning_content"), "reasoning under one name only"
    so_far.reasoning += delta.get("reasoning_content") or ""
    for call in delta.get("tool_calls") or ():
        assert type(call["index"]) is int
        if call["index"] not in so_far.calls:
            assert call["id"]
            assert call["type"] in ("function", "custom")
            so_far.calls[call["index"]] = {"id": call["id"], "name": "", "arguments": "", "custom": call.get("custom")}
        function = call.get("function") or {}
        so_far.calls[call["index"]]["name"] += function.get("name") or ""
        so_far.calls[call["index"]]["arguments"] += function.get("arguments") or ""
    so_far.legacy = delta.get("function_call") or so_far.legacy
    if choice["finish_reason"] is not None:
        assert not so_far.finish, "finish_reason twice"
        so_far.finish = choice["finish_reason"]

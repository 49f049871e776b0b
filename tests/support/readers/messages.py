"""A Messages stream as the strictest clients take it, all at once.

Transliterated needs: anthropic-py appends to a list by position and raises on any event but a ping before
message_start; Claude Code counts the usage of message_delta, and takes a stream without message_stop for broken; Zed
decodes into tagged types with unsigned integers; LangChain reads usage from message_delta alone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from tests.support.readers.framing import events

BLOCKS = {
    "text": {"type": "text", "text": ""},
    "thinking": {"type": "thinking", "thinking": "", "signature": ""},
}
DELTAS = {
    "text_delta": ("text", "text"),
    "thinking_delta": ("thinking", "thinking"),
    "signature_delta": ("thinking", "signature"),
    "input_json_delta": ("tool_use", "partial_json"),
}
STOP_REASONS = {
    "end_turn", "max_tokens", "stop_sequence", "tool_use", "pause_turn", "refusal", "model_context_window_exceeded",
}  # fmt: skip
COUNTS = ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


@dataclass
class Read:
    """What a client has in hand after the stream."""

    content: list[dict[str, Any]] = field(default_factory=list)  # of tool_use also `json`, as it came
    start: dict[str, Any] = field(default_factory=dict)
    stop_reason: str = ""
    stop_sequence: str | None = None
    usage: dict[str, Any] = field(default_factory=dict)
    deltas: int = 0
    pings: int = 0

    def text(self, kind: str = "text") -> str:
        return "".join(block[kind] for block in self.content if block["type"] == kind)

    @property
    def tools(self) -> list[tuple[str, str, Any]]:
        return [(b["id"], b["name"], b["input"]) for b in self.content if b["type"] == "tool_use"]

    @property
    def kinds(self) -> list[str]:
        return [block["type"] for block in self.content]


class _Reader:
    def __init__(self) -> None:
        self.read = Read()
        self.open: int | None = None
        self.ended = ""

    def take(self, name: str, data: dict[str, Any]) -> None:
        assert data["type"] == name
        assert self.ended != "message_stop", f"{name} after message_stop"
        if name == "ping":
            self.read.pings += 1
            return
        assert self.read.start or name == "message_start", f"{name} before message_start"
        assert not self.ended or name == "message_stop", f"{name} after message_delta"
        getattr(self, f"_{name}")(data)

    def _message_start(self, data: dict[str, Any]) -> None:
        assert not self.read.start, "a second message_start"
        message = data["message"]
        assert message["type"] == "message"
        assert message["role"] == "assistant"
        assert message["content"] == []
        assert message["stop_reason"] is None
        assert message["stop_sequence"] is None
        assert isinstance(message["id"], str)
        assert isinstance(message["model"], str)
        counted(message["usage"])
        self.read.start = message

    def _content_block_start(self, data: dict[str, Any]) -> None:
        assert self.open is None, "a block opens inside another"
        assert data["index"] == len(self.read.content), "indices are not contiguous"
        block = data["content_block"]
        if block["type"] == "tool_use":
            assert block["id"]
            assert block["name"]
            assert block["input"] == {}
            assert block["id"] not in {b.get("id") for b in self.read.content}, "an id twice"
            block = {**block, "json": ""}
        else:
            assert block == BLOCKS[block["type"]], "a start says something"
        self.open = data["index"]
        self.read.content.append(dict(block))

    def _content_block_delta(self, data: dict[str, Any]) -> None:
        assert data["index"] == self.open, "a delta of a block that is not open"
        block = self.read.content[data["index"]]
        kind, key = DELTAS[data["delta"]["type"]]
        assert block["type"] == kind, f"{data['delta']['type']} in a {block['type']} block"
        said = data["delta"][key]
        assert isinstance(said, str)
        assert not (kind == "thinking" and key == "thinking" and block["signature"]), "thinking after its signature"
        self.read.deltas += 1
        block["json" if kind == "tool_use" else key] += said

    def _content_block_stop(self, data: dict[str, Any]) -> None:
        assert data["index"] == self.open, "a block that is not open stops"
        block = self.read.content[data["index"]]
        if block["type"] == "thinking":
            assert block["signature"], "thinking without a signature"
        self.open = None

    def _message_delta(self, data: dict[str, Any]) -> None:
        assert self.open is None, "message_delta inside a block"
        assert data["delta"]["stop_reason"] in STOP_REASONS
        counted(data["usage"])
        self.read.stop_reason = data["delta"]["stop_reason"]
        self.read.stop_sequence = data["delta"]["stop_sequence"]
        self.read.usage = data["usage"]
        self.ended = "message_delta"

    def _message_stop(self, data: dict[str, Any]) -> None:
        assert self.ended == "message_delta", "message_stop without message_delta"
        self.ended = "message_stop"


def counted(usage: dict[str, Any]) -> None:
    for key in COUNTS:
        assert type(usage[key]) is int, f"{key} is {usage[key]!r}"
        assert usage[key] >= 0


def read(stream: bytes, *, ended: bool = True) -> Read:
    """The message that a stream brings. Asserts everything that some client relies on.

    Args:
        ended: it is a whole answer; else it broke off somewhere.
    """
    reader = _Reader()
    for name, data in events(stream, named=True):
        reader.take(name, data)
    if ended:
        assert reader.ended == "message_stop", "no message_stop"
        assert reader.open is None
        for block in reader.read.content:
            if block["type"] == "tool_use":
                block["input"] = _input(block["json"], reader.read.stop_reason)
    return reader.read


def _input(text: str, stop_reason: str) -> Any:
    """A call's input. Only a turn that was cut may leave a call unfinished, and then nobody runs it."""
    try:
        value = json.loads(text or "{}")
    except ValueError:
        assert stop_reason not in ("tool_use", "end_turn"), f"{stop_reason} with a broken call: {text!r}"
        return None
    assert isinstance(value, dict)
    return value

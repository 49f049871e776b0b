"""What a simulated engine says word by word: tool calls, faults and odd streams that no real engine gives on demand.

A script is a JSON file, `{"MODEL": [turn, …]}`. A chat request that brings tools gets the model's next turn; the last
one is given from then on. A turn is told in the deltas of a chat stream:

    {"deltas": [{"content": "Look: "}, {"tool_calls": [{"index": 0, "id": "call_1", …}]}], "finish": "tool_calls"}
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

Delta = dict[str, Any]


class Turn(Struct, frozen=True, forbid_unknown_fields=True):
    """One answer. `finish`: its finish_reason; or error, with which the stream ends; or die, and the engine ends."""

    deltas: tuple[Delta, ...]
    finish: Literal["stop", "length", "tool_calls", "error", "die"] = "stop"


class Script:
    """The turns of each model, and how far each has come. An engine that is started again goes on where it was."""

    def __init__(self, path: str) -> None:
        """Raises OSError, msgspec.DecodeError."""
        self._turns = msgspec.json.decode(Path(path).read_bytes(), type=dict[str, list[Turn]]) if path else {}
        self._given: dict[str, int] = {}

    def next(self, model: str) -> Turn | None:
        """None: nothing is scripted for it."""
        turns = self._turns.get(model)
        if not turns:
            return None
        number = self._given.get(model, 0)
        self._given[model] = number + 1
        return turns[min(number, len(turns) - 1)]


def message(deltas: list[Delta]) -> dict[str, Any]:
    """The message that the deltas of a stream add up to."""
    whole: dict[str, Any] = {"role": "assistant", "content": None}
    calls: dict[int, dict[str, Any]] = {}
    for delta in deltas:
        for key in ("content", "reasoning"):
            if key in delta:
                whole[key] = (whole.get(key) or "") + delta[key]
        for piece in delta.get("tool_calls", ()):
            call = calls.setdefault(piece.get("index", 0), {"id": "", "type": "function", "function": {}})
            call["id"] = call["id"] or piece.get("id", "")
            for key, text in piece.get("function", {}).items():
                call["function"][key] = call["function"].get(key, "") + text
    return whole | ({"tool_calls": list(calls.values())} if calls else {})

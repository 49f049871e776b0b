"""Messages of a chat request, as chat templates take them (C-01, C-02, C-04 to C-06).

Nearly all conversations are fine as they are: they are looked at without being decoded whole, and pass byte for byte.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw, Struct

from cortex_core.dialects.body import absent, bad, encode, loads, starts, typed
from cortex_core.fleet import ModelFacts
from cortex_core.translate import history, parts
from cortex_core.translate.chat.tools import shimmed


class _Function(Struct):
    arguments: Raw = Raw()


class _Call(Struct):
    id: str | None = None
    function: _Function | None = None


class _View(Struct):
    """What must be known of a message to leave it alone."""

    role: str
    content: Raw = Raw()
    tool_calls: list[_Call] | msgspec.UnsetType | None = msgspec.UNSET
    function_call: Raw = Raw()
    tool_call_id: str | None = None
    reasoning: Raw = Raw()
    reasoning_content: Raw = Raw()
    reasoning_details: Raw = Raw()


class _Part(Struct):
    type: str = ""


_views = msgspec.json.Decoder(list[_View]).decode
_parts = msgspec.json.Decoder(list[_Part]).decode

_UNREADABLE = frozenset({"file", "refusal", "input_text", "output_text"})


def normalise(raw: Raw, facts: ModelFacts, model: str) -> Raw:
    """The messages, untouched where nothing is the matter.

    Raises:
        CortexError: bad_request, naming the field.
    """
    if starts(raw) != b"[":
        raise bad("messages", "must be an array of messages")
    views = typed(raw, _views, "messages")
    if not views:
        raise bad("messages", "must hold at least one message")
    if _ordered(views, facts) and not any(_odd(view, n, facts) for n, view in enumerate(views)):
        return raw
    repair = _Repair(facts, model)
    said = [repair.message(message) for message in typed(raw, loads, "messages")]
    return Raw(encode(history.settle(said, facts, merge=False)))


def _ordered(views: list[_View], facts: ModelFacts) -> bool:
    """Whether roles stand where templates want them, and each call is followed by its result."""
    waiting: list[Any] = []
    for number, view in enumerate(views):
        if view.role == "tool":
            if not waiting or waiting.pop(0) != view.tool_call_id:
                return False
            continue
        if waiting:
            return False
        if view.role == "system" and number and (facts.system_first or views[number - 1].role == "system"):
            return False
        if view.role == "function" or (view.role == "developer" and not (facts.accepts_developer and number == 0)):
            return False
        if view.role == "assistant" and isinstance(view.tool_calls, list):
            waiting = [call.id for call in view.tool_calls]
    return True


def _odd(view: _View, number: int, facts: ModelFacts) -> bool:
    """Whether a message by itself holds what engines refuse or do not see."""
    if view.role == "assistant":
        if view.tool_calls is None or view.tool_calls == [] or not absent(view.function_call):
            return True
        for call in view.tool_calls or ():
            if call.function is None or starts(call.function.arguments) != b'"':
                return True
        if absent(view.reasoning) and not (absent(view.reasoning_content) and absent(view.reasoning_details)):
            return True
    if not memoryview(view.content) or starts(view.content) != b"[":
        return False
    kinds = {part.type for part in typed(view.content, _parts, f"messages.{number}.content")}
    return bool(kinds & _UNREADABLE) or (not facts.vision and "image_url" in kinds)


class _Repair:
    """Mends one message after the other."""

    __slots__ = ("_facts", "_legacy", "_model", "_number")

    def __init__(self, facts: ModelFacts, model: str) -> None:
        self._facts = facts
        self._model = model
        self._number = 0
        self._legacy: dict[str, str] = {}  # function → the id made up for its last call

    def message(self, message: dict[str, Any]) -> dict[str, Any]:
        content = message.get("content")
        if isinstance(content, list):
            message = {**message, "content": [self._part(part) for part in content]}
        match message["role"]:
            case "assistant":
                return self._assistant(message)
            case "function":
                name = str(message.get("name", ""))
                return {
                    "role": "tool",
                    "tool_call_id": self._legacy.get(name, name),
                    "content": message.get("content") or "",
                }
        return message

    def _part(self, part: Any) -> Any:
        if not isinstance(part, dict):
            return part
        match part.get("type"):
            case "file":
                file = part.get("file")
                name = file.get("filename") if isinstance(file, dict) else None
                return parts.text(parts.omitted("file", name if isinstance(name, str) else ""))
            case "refusal":
                return parts.text(str(part.get("refusal") or ""))
            case "input_text" | "output_text":
                return parts.text(str(part.get("text") or ""))
            case "image_url" if not self._facts.vision:
                return parts.text(parts.no_vision(self._model))
        return part

    def _assistant(self, message: dict[str, Any]) -> dict[str, Any]:
        fixed = dict(message)
        content = fixed.get("content")
        if isinstance(content, list) and all(isinstance(p, dict) and p.get("type") == "text" for p in content):
            fixed["content"] = parts.joined(content, "")
        calls = [self._call(call) for call in fixed.pop("tool_calls", None) or [] if isinstance(call, dict)]
        legacy = fixed.pop("function_call", None)
        if isinstance(legacy, dict) and isinstance(legacy.get("name"), str) and not calls:
            self._number += 1
            identity = self._legacy[legacy["name"]] = f"call_{self._number}"
            calls = [self._call({"id": identity, "type": "function", "function": legacy})]
        if calls:
            fixed["tool_calls"] = calls
        thought = fixed.get("reasoning") or fixed.pop("reasoning_content", None) or _details(fixed)
        fixed.pop("reasoning_details", None)
        if isinstance(thought, str) and thought:
            fixed["reasoning"] = thought
        if not calls and fixed.get("content") is None:
            fixed["content"] = ""
        return fixed

    def _call(self, call: dict[str, Any]) -> dict[str, Any]:
        custom = call.get("custom")
        if isinstance(custom, dict):
            shim = {"name": custom.get("name"), "arguments": shimmed(custom.get("input"))}
            return {"id": call.get("id"), "type": "function", "function": shim}
        function = call.get("function")
        if not isinstance(function, dict):
            return call
        arguments = function.get("arguments")
        if not isinstance(arguments, str):
            function = {**function, "arguments": encode({} if arguments is None else arguments).decode()}
        return {**call, "function": function}


def _details(message: dict[str, Any]) -> str:
    """OpenRouter's form of reasoning."""
    details = message.get("reasoning_details")
    return parts.joined(details) if isinstance(details, list) else ""

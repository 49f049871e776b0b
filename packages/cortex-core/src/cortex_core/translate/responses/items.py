"""Input items of OpenAI Responses as chat messages (rules R-01, R-02).

What an assistant did between two words of others (reasoning, messages, calls) is one chat message. Items of hosted
services, and kinds nobody knows, are left out. Whether a template takes the outcome is `history.settle`'s matter.
"""

from __future__ import annotations

import base64
from typing import Any

from cortex_core.dialects.body import bad, encode
from cortex_core.fleet import ModelFacts
from cortex_core.translate import opaque, parts
from cortex_core.translate.responses.fields import a_name, an_array, an_object
from cortex_core.translate.responses.tools import Tools, custom_arguments

Message = dict[str, Any]

_ROLES = ("user", "system", "developer", "assistant")
_TEXT = ("input_text", "output_text", "text", "summary_text", "reasoning_text")
_CALLS = ("function_call", "custom_tool_call")
_RESULTS = ("function_call_output", "custom_tool_call_output")
_TEXT_MEDIA = ("data:text/", "data:application/json")


def read(value: Any, field: str, *, model: str, tools: Tools, facts: ModelFacts) -> list[Message]:
    """The messages of a request's `input`, or of its `instructions`, where they are items.

    Raises:
        CortexError: bad_request, naming the item.
    """
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    reader = _Reader(model, tools, facts)
    for index, one in enumerate(an_array(field, value)):
        reader.item(f"{field}.{index}", an_object(f"{field}.{index}", one))
    return [message.chat() if isinstance(message, _Turn) else message for message in reader.messages]


class _Turn:
    """What an assistant says and does until somebody else has the word."""

    __slots__ = ("calls", "texts", "thoughts")

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.thoughts: list[str] = []
        self.calls: list[dict[str, Any]] = []

    def chat(self) -> Message:
        message: Message = {"role": "assistant", "content": "\n\n".join(self.texts) or (None if self.calls else "")}
        if self.thoughts:
            message["reasoning"] = "\n\n".join(self.thoughts)
        if self.calls:
            message["tool_calls"] = self.calls
        return message


class _Reader:
    def __init__(self, model: str, tools: Tools, facts: ModelFacts) -> None:
        self.messages: list[Message | _Turn] = []
        self._model = model
        self._tools = tools
        self._facts = facts

    def item(self, where: str, item: dict[str, Any]) -> None:
        kind = item.get("type")
        if kind == "message" or (kind is None and "role" in item):
            self._message(where, item)
        elif kind == "reasoning":
            self._reasoning(item)
        elif kind in _CALLS:
            self._call(where, item)
        elif kind in _RESULTS:
            self._result(where, item)
        elif kind == "item_reference":
            raise bad(where, "refers to an item that is not stored: send the item itself")

    def _message(self, where: str, item: dict[str, Any]) -> None:
        role = item.get("role")
        if role not in _ROLES:
            raise bad(f"{where}.role", "must be user, assistant, system or developer")
        content = self._content(f"{where}.content", item.get("content"))
        if role != "assistant":
            self.messages.append({"role": role, "content": parts.plain(content)})
        elif text := parts.joined(content, ""):
            self._turn().texts.append(text)

    def _reasoning(self, item: dict[str, Any]) -> None:
        """Its text: in the clear, sealed by us, or as a summary. Others' encrypted reasoning is unreadable."""
        text = (
            parts.joined(item.get("content"), "")
            or opaque.unseal(item.get("encrypted_content"))
            or parts.joined(item.get("summary"), "\n\n")
        )
        if text:
            self._turn().thoughts.append(text)

    def _call(self, where: str, item: dict[str, Any]) -> None:
        name = a_name(f"{where}.name", item.get("name"))
        namespace = item.get("namespace")
        function = self._tools.function(name, namespace if isinstance(namespace, str) else None)
        if item["type"] == "custom_tool_call":
            arguments = custom_arguments(parts.joined(item.get("input")))
        else:
            arguments = item.get("arguments") or "{}"
            if not isinstance(arguments, str):
                arguments = encode(arguments).decode()
        call = {"id": _call_id(where, item), "type": "function", "function": {"name": function, "arguments": arguments}}
        self._turn().calls.append(call)

    def _result(self, where: str, item: dict[str, Any]) -> None:
        """Images of a result go behind it in a user's message: templates take none in a tool's."""
        call_id = _call_id(where, item)
        output = item.get("output")
        if not isinstance(output, str | list | None):
            output = encode(output).decode()
        content = self._content(f"{where}.output", output)
        images = [part for part in content if part["type"] != "text"]
        texts = parts.joined([part for part in content if part["type"] == "text"])
        self.messages.append({"role": "tool", "tool_call_id": call_id, "content": texts})
        if images:
            label = parts.text(f"[images of tool result {call_id}]")
            self.messages.append({"role": "user", "content": [label, *images]})

    def _turn(self) -> _Turn:
        last = self.messages[-1] if self.messages else None
        if not isinstance(last, _Turn):
            self.messages.append(last := _Turn())
        return last

    def _content(self, where: str, value: Any) -> list[parts.Part]:
        if value is None:
            return []
        if isinstance(value, str):
            return [parts.text(value)] if value else []
        found = (self._part(f"{where}.{at}", one) for at, one in enumerate(an_array(where, value)))
        return [part for part in found if part is not None]

    def _part(self, where: str, value: Any) -> parts.Part | None:
        if isinstance(value, str):
            return parts.text(value)
        part = an_object(where, value)
        kind = part.get("type")
        if kind == "input_image":
            return self._image(where, part)
        if kind == "input_file":
            return parts.text(_file(part))
        if kind == "input_audio" and isinstance(part.get("input_audio"), dict):
            return {"type": "input_audio", "input_audio": part["input_audio"]}
        text = part.get("refusal") if kind == "refusal" else part.get("text")
        if isinstance(text, str):
            return parts.text(text)
        if kind in _TEXT:
            raise bad(f"{where}.text", "must be a string")
        return None

    def _image(self, where: str, part: dict[str, Any]) -> parts.Part:
        if not self._facts.vision:
            return parts.text(parts.no_vision(self._model))
        url = part.get("image_url")
        if isinstance(url, dict):
            url = url.get("url")  # as chat has it
        if not isinstance(url, str):
            if part.get("file_id"):
                return parts.text(parts.omitted("image", "files are not stored"))
            raise bad(f"{where}.image_url", "must be a string")
        head, _, data = url.partition(";base64,")
        if data and head.startswith("data:"):
            return parts.image_data(data, head[5:])
        return parts.image(url) if self._facts.fetches_urls else parts.text(parts.omitted("image", "not fetched"))


def _file(part: dict[str, Any]) -> str:
    """A text file's text; words in the place of any other file."""
    name = str(part.get("filename") or "")
    data = part.get("file_data")
    if isinstance(data, str) and data.startswith(_TEXT_MEDIA):
        try:
            text = base64.b64decode(data.partition(";base64,")[2]).decode()
        except ValueError:
            return parts.omitted("file", name)
        return f"{name}\n{text}" if name else text
    return parts.omitted("file", name, len(data) * 3 // 4 if isinstance(data, str) else 0)


def _call_id(where: str, item: dict[str, Any]) -> str:
    return a_name(f"{where}.call_id", item.get("call_id") or item.get("id"))

"""Output items of OpenAI Responses, growing from pieces of a chat answer: what each is, and the events it makes.

`shape` is the item as clients see it in one state; `opening` and `closing` are its events, without the numbers that the
stream gives to each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from cortex_core.translate import opaque
from cortex_core.translate.calls import as_object, is_object
from cortex_core.translate.responses.tools import Tool, custom_input

Event = tuple[str, dict[str, Any]]

ADDED, DONE = "response.output_item.added", "response.output_item.done"
PART_ADDED, PART_DONE = "response.content_part.added", "response.content_part.done"
BEGUN = "in_progress"


class Item(ABC):
    """One item. Its pieces, joined, are its text, its thought or its arguments; those not shown yet wait."""

    __slots__ = ("delta_head", "id", "pieces", "waiting")

    def __init__(self) -> None:
        self.id = ""  # once it is open
        self.waiting: list[str] = []
        self.delta_head = b""  # of each of its delta events, up to what differs from one to the next
        self.pieces: list[str] = []

    def add(self, piece: str) -> None:
        self.pieces.append(piece)
        self.waiting.append(piece)

    @property
    def text(self) -> str:
        if len(self.pieces) > 1:
            self.pieces = ["".join(self.pieces)]
        return self.pieces[0] if self.pieces else ""

    @property
    @abstractmethod
    def id_prefix(self) -> str: ...

    @property
    def open(self) -> bool:
        return bool(self.id)

    @property
    def ready(self) -> bool:
        """Whether it can be opened: what its first event must say is known."""
        return True

    @property
    def whole(self) -> bool:
        """Whether it can be closed before the answer ends, when another item has begun."""
        return True

    @property
    @abstractmethod
    def delta(self) -> tuple[str, dict[str, Any]] | None:
        """The event that shows a piece; None: pieces are not shown as they come."""

    @abstractmethod
    def shape(self, status: str) -> dict[str, Any]: ...

    @abstractmethod
    def opening(self) -> Iterator[Event]: ...

    @abstractmethod
    def closing(self, status: str) -> Iterator[Event]: ...


class Thought(Item):
    """A reasoning item. Sealed: its text also as an opaque string, for clients that echo nothing else (R-06)."""

    __slots__ = ("_sealed",)

    def __init__(self, *, sealed: bool) -> None:
        super().__init__()
        self._sealed = sealed

    @property
    def id_prefix(self) -> str:
        return "rs_"

    @property
    def delta(self) -> tuple[str, dict[str, Any]]:
        return "response.reasoning_text.delta", {"content_index": 0}

    def shape(self, status: str) -> dict[str, Any]:
        begun = status == BEGUN
        return {
            "id": self.id,
            "type": "reasoning",
            "status": status,
            "summary": [],
            "content": [] if begun else [self._part(self.text)],
            "encrypted_content": opaque.seal(self.text) if self._sealed and not begun else None,
        }

    def opening(self) -> Iterator[Event]:
        yield ADDED, {"item": self.shape(BEGUN)}
        yield PART_ADDED, {"item_id": self.id, "content_index": 0, "part": self._part("")}

    def closing(self, status: str) -> Iterator[Event]:
        at = {"item_id": self.id, "content_index": 0}
        yield "response.reasoning_text.done", {**at, "text": self.text}
        yield PART_DONE, {**at, "part": self._part(self.text)}
        yield DONE, {"item": self.shape(status)}

    @staticmethod
    def _part(text: str) -> dict[str, Any]:
        return {"type": "reasoning_text", "text": text}


class Message(Item):
    """The answer's text. White space alone, as templates put it before calls, is an item only if there is no other."""

    __slots__ = ("_spoken", "logprobs")

    def __init__(self) -> None:
        super().__init__()
        self._spoken = False
        self.logprobs: list[Any] = []

    @property
    def id_prefix(self) -> str:
        return "msg_"

    @property
    def ready(self) -> bool:
        self._spoken = self._spoken or any(map(str.strip, self.waiting))
        return self._spoken

    @property
    def delta(self) -> tuple[str, dict[str, Any]]:
        return "response.output_text.delta", {"content_index": 0, "logprobs": []}

    def shape(self, status: str) -> dict[str, Any]:
        content = [] if status == BEGUN else [self._part(self.text, self.logprobs)]
        return {"id": self.id, "type": "message", "status": status, "role": "assistant", "content": content}

    def opening(self) -> Iterator[Event]:
        yield ADDED, {"item": self.shape(BEGUN)}
        yield PART_ADDED, {"item_id": self.id, "content_index": 0, "part": self._part("", [])}

    def closing(self, status: str) -> Iterator[Event]:
        at = {"item_id": self.id, "content_index": 0}
        yield "response.output_text.done", {**at, "text": self.text, "logprobs": self.logprobs}
        yield PART_DONE, {**at, "part": self._part(self.text, self.logprobs)}
        yield DONE, {"item": self.shape(status)}

    @staticmethod
    def _part(text: str, logprobs: list[Any]) -> dict[str, Any]:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


class Call(Item):
    """A tool's call, closed only when its arguments are whole: agents run what is done (C-11).

    A function's arguments are shown as they come, if they begin as an object; a custom tool's free text stands inside
    them, and is shown in one piece when they are whole.
    """

    __slots__ = ("_begins", "call_id", "name", "tool")

    def __init__(self) -> None:
        super().__init__()
        self._begins = False
        self.call_id = ""
        self.name = ""  # the function's, as far as it has come
        self.tool = Tool("")  # what the client calls it, once it is open

    @property
    def id_prefix(self) -> str:
        return "ctc_" if self.tool.custom else "fc_"

    @property
    def ready(self) -> bool:
        return bool(self.name) and any(self.waiting)  # arguments come behind the whole name

    @property
    def whole(self) -> bool:
        return is_object(self.text)

    @property
    def arguments(self) -> str | None:
        """None: truncated, or of nothing that could be called."""
        whole = as_object(self.text) if self.name else None
        return self.text if whole is not None and self._begins else whole

    @property
    def delta(self) -> tuple[str, dict[str, Any]] | None:
        self._begins = self._begins or self.text.lstrip().startswith("{")
        if self.tool.custom or not self._begins:
            return None
        return "response.function_call_arguments.delta", {}

    def shape(self, status: str) -> dict[str, Any]:
        arguments = "" if status == BEGUN else self.arguments or ""
        shape: dict[str, Any] = {"id": self.id, "type": "function_call", "status": status, "call_id": self.call_id}
        shape["name"] = self.tool.name
        if self.tool.namespace is not None:
            shape["namespace"] = self.tool.namespace
        if self.tool.custom:
            return {**shape, "type": "custom_tool_call", "input": custom_input(arguments)}
        return {**shape, "arguments": arguments}

    def opening(self) -> Iterator[Event]:
        yield ADDED, {"item": self.shape(BEGUN)}

    def closing(self, status: str) -> Iterator[Event]:
        """Only of a call whose arguments are whole."""
        at, arguments = {"item_id": self.id}, self.arguments or ""
        if self.tool.custom:
            text = custom_input(arguments)
            if text:
                yield "response.custom_tool_call_input.delta", {**at, "delta": text}
            yield "response.custom_tool_call_input.done", {**at, "input": text}
        else:
            if not self._begins:  # else they were shown as they came
                yield "response.function_call_arguments.delta", {**at, "delta": arguments}
            done = {**at, "name": self.tool.name, "arguments": arguments}
            yield "response.function_call_arguments.done", done
        yield DONE, {"item": self.shape(status)}

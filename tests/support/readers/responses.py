"""A strict reader of Responses streams: what openai-python's accumulator and Codex need, and nothing forgiven.

openai-python (lib/streaming/responses): `response.created` first, an output index only once, content events only of
items that were added, ids of an item the same in added, done and final, no open item in a completed response.
Codex: one item at a time, it runs a call at `response.output_item.done`, and waits for exactly one terminal event.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from tests.support.readers import framing

TERMINAL = {"response.completed", "response.incomplete", "response.failed"}
REQUIRED = {
    "id", "created_at", "model", "object", "output", "parallel_tool_calls", "tool_choice", "tools", "status", "error",
    "incomplete_details", "instructions", "metadata", "temperature", "top_p", "max_output_tokens",
    "previous_response_id", "reasoning", "text", "truncation", "usage", "user", "store", "background", "service_tier",
}  # fmt: skip
_TEXTS = {
    "message": ("response.output_text", "text"),
    "reasoning": ("response.reasoning_text", "text"),
    "function_call": ("response.function_call_arguments", "arguments"),
    "custom_tool_call": ("response.custom_tool_call_input", "input"),
}
CALLS = {"function_call", "custom_tool_call"}


@dataclass
class Read:
    """What a stream said. `ran`: the calls that an agent ran, when it did."""

    events: list[dict[str, Any]] = field(default_factory=list)
    items: list[dict[str, Any]] = field(default_factory=list)  # that were done
    ran: list[dict[str, Any]] = field(default_factory=list)
    final: dict[str, Any] = field(default_factory=dict)  # the response of the terminal event

    @property
    def kinds(self) -> list[str]:
        return [event["type"].removeprefix("response.") for event in self.events]

    @property
    def text(self) -> str:
        return text_of(self.final["output"])

    @property
    def thought(self) -> str:
        items = [item for item in self.final["output"] if item["type"] == "reasoning"]
        return "".join(part["text"] for item in items for part in item["content"])


def text_of(output: list[dict[str, Any]]) -> str:
    return "".join(part["text"] for item in output if item["type"] == "message" for part in item["content"])


def read(stream: bytes) -> Read:
    """Everything a whole stream says. Raises AssertionError where a client would stumble."""
    named = framing.events(stream, named=True)
    events = [data for _, data in named]
    assert [name for name, _ in named] == [event["type"] for event in events]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    assert [event["type"] in TERMINAL for event in events] == [False] * (len(events) - 1) + [True]
    reader = _Reader(Read(events), events[0]["response"]["id"])
    for event in events:
        reader.take(event)
    return reader.said


def check_response(response: dict[str, Any]) -> None:
    """A response object by itself."""
    assert response.keys() >= REQUIRED
    assert response["object"] == "response"
    assert response["store"] is False
    status = response["status"]
    assert (status == "failed") == (response["error"] is not None)
    assert (status == "incomplete") == (response["incomplete_details"] is not None)
    if status in {"completed", "incomplete"}:
        usage = response["usage"]
        assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
        assert usage["input_tokens_details"]["cached_tokens"] >= 0
        assert usage["output_tokens_details"]["reasoning_tokens"] >= 0
    ids = [item["id"] for item in response["output"]]
    assert len(set(ids)) == len(ids)
    calls = [item["call_id"] for item in response["output"] if item["type"] in CALLS]
    assert len(set(calls)) == len(calls)
    for item in response["output"]:
        check_item(item, response)


def check_item(item: dict[str, Any], response: dict[str, Any]) -> None:
    assert item["status"] in {"completed", "incomplete"}
    if response["status"] == "completed":
        assert item["status"] == "completed"
    if item["type"] in CALLS:
        assert item["status"] == "completed", "a truncated call is runnable"
        assert item["name"]
        assert item["call_id"]
    if item["type"] == "function_call":
        assert isinstance(json.loads(item["arguments"]), dict)


class _Reader:
    def __init__(self, said: Read, response_id: str) -> None:
        self.said = said
        self._id = response_id
        self._added = 0
        self._open: dict[str, Any] | None = None
        self._dangling = False  # a call that was begun and never done
        self._text: list[str] = []
        self._finished = False  # the open item's text is done

    def take(self, event: dict[str, Any]) -> None:
        kind = event["type"]
        if "response" in event:
            self._lifecycle(kind, event["response"])
        elif kind == "response.output_item.added":
            self._begin(event)
        else:
            assert self._open is not None, f"{kind} of no open item"
            assert event["output_index"] == self._added - 1
            if kind == "response.output_item.done":
                self._end(event["item"])
            else:
                assert event["item_id"] == self._open["id"]
                self._content(kind, event)

    def _lifecycle(self, kind: str, response: dict[str, Any]) -> None:
        assert response["id"] == self._id
        if kind not in TERMINAL:
            assert response["status"] == "in_progress"
            assert response["output"] == self.said.items
            return
        assert response["status"] == kind.removeprefix("response.")
        check_response(response)
        output = response["output"]
        if kind == "response.failed" and self._open is not None and self._open["type"] not in CALLS:
            assert output[:-1] == self.said.items
            assert output[-1]["id"] == self._open["id"]
            assert output[-1]["status"] == "incomplete"
        else:
            assert output == self.said.items
            assert kind != "response.completed" or (self._open is None and not self._dangling)
        self.said.final = response

    def _begin(self, event: dict[str, Any]) -> None:
        item = event["item"]
        if self._open is not None:  # only a call that will never be run may be left behind
            assert self._open["type"] in CALLS
            self._dangling = True
        assert event["output_index"] == self._added
        assert item["status"] == "in_progress"
        assert item["type"] not in CALLS or item[_TEXTS[item["type"]][1]] == ""
        self._added += 1
        self._open, self._text, self._finished = item, [], False

    def _content(self, kind: str, event: dict[str, Any]) -> None:
        assert self._open is not None
        prefix, field_ = _TEXTS[self._open["type"]]
        if kind == f"{prefix}.delta":
            assert not self._finished
            assert event["delta"]
            self._text.append(event["delta"])
        elif kind == f"{prefix}.done":
            assert event[field_] == "".join(self._text)
            self._finished = True
        else:
            assert kind in {"response.content_part.added", "response.content_part.done"}
            assert self._open["type"] in {"message", "reasoning"}
            assert event["part"]["text"] == "".join(self._text)
            assert self._finished == (kind == "response.content_part.done")

    def _end(self, item: dict[str, Any]) -> None:
        assert self._open is not None
        assert self._finished
        same = ("id", "type", "call_id", "name", "namespace")
        assert [item.get(key) for key in same] == [self._open.get(key) for key in same]
        text = "".join(self._text)
        if item["type"] in CALLS:
            assert item[_TEXTS[item["type"]][1]] == text
            self.said.ran.append(item)
        else:
            assert [part["text"] for part in item["content"]] == [text]
        self.said.items.append(item)
        self._open = None

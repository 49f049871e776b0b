"""A chat stream, spliced as bytes: most events are never decoded (C-09 to C-12).

What is looked for cannot stand inside a JSON string, where every quote has a backslash before it: so `"model":"x"` in
the bytes of an event is the key, and can be replaced in place. Only events that end a choice, bring tool calls or usage
are decoded. The bytes come whole, event by event or many at once, as the gateway's tap gives them.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
from msgspec import Struct

from cortex_core.dialects.body import NOT_JSON, encode
from cortex_core.translate.calls import as_object
from cortex_core.translate.chat.request import ChatContext
from cortex_core.translate.chat.response import VLLM_NULLS, finish
from cortex_core.translate.chat.tools import unshimmed

_MODEL = re.compile(rb'"model"\s*:\s*"(?:[^"\\]|\\.)*"')
_REASONING = re.compile(rb'"reasoning"\s*:\s*("(?:[^"\\]|\\.)*")(?!,"reasoning_content")')
_NULLS = re.compile(b',"(?:%b)":null' % "|".join(VLLM_NULLS).encode())
_TEXT, _THOUGHT = b'{"content":"', b'{"reasoning":"'
_DELTA = re.compile(rb'"delta":(\{"(?:content|reasoning)":"(?:[^"\\]|\\.)*"\})')
_USAGE = re.compile(rb'"usage"\s*:\s*\{(?!"prompt_tokens":\d+,"total_tokens":\d+,"completion_tokens":\d)')


class _Calls(Struct):
    """The tool calls of one choice, as far as they have come."""

    arguments: dict[int, list[str]] = {}
    names: dict[int, str] = {}
    ids: dict[int, str] = {}


class ChatStream:
    """Splices one answer."""

    __slots__ = ("_calls", "_context", "_engine", "_head", "_model", "_new_head", "_new_tail", "_rename", "_tail")

    def __init__(self, context: ChatContext, engine_model: str = "") -> None:
        self._context = context
        self._model = b'"model":' + encode(context.model)
        self._engine = b'"model":' + encode(engine_model)  # as the engine writes it, which the first event shows
        self._head = self._new_head = b""  # of events that bring words alone, around them: the same all the time
        self._tail = self._new_tail = b""
        self._rename = engine_model != context.model
        self._calls: dict[int, _Calls] = {}

    def feed(self, events: bytes) -> bytes:
        """Whole events, as the client gets them."""
        if self._head and events.startswith(self._head) and events.endswith(self._tail):
            delta = events[len(self._head) : -len(self._tail)]
            ends = delta.find(b'"}') == len(delta) - 2
            if ends and delta.startswith(_TEXT) and b'","' not in delta:
                return b"".join((self._new_head, delta, self._new_tail))
            if ends and delta.startswith(_THOUGHT) and delta.count(b'"') == 4:
                said = delta[len(_THOUGHT) - 1 : -1]
                both = (b'{"reasoning":', said, b',"reasoning_content":', said, b"}")
                return b"".join((self._new_head, *both, self._new_tail))
        if _to_decode(events):
            return b"".join([self._event(event) for event in events.split(b"\n\n") if event])
        if not self._head:
            self._learn(events)
        return self._splice(events)

    def _learn(self, event: bytes) -> None:
        """What stands around the words of an event, so that those after it need no search."""
        found = _DELTA.search(event)
        if found is None or event.find(b"\n\n") != len(event) - 2:
            return
        self._head, self._tail = event[: found.start(1)], event[found.end(1) :]
        self._new_head, self._new_tail = self._splice(self._head), self._splice(self._tail)

    def _splice(self, events: bytes) -> bytes:
        if self._rename:
            if self._engine not in events and (found := _MODEL.search(events)) is not None:
                self._engine = found[0]
            events = events.replace(self._engine, self._model)
        if b'"reasoning"' in events:
            events = _REASONING.sub(rb'"reasoning":\1,"reasoning_content":\1', events)
        return _NULLS.sub(b"", events)

    def _event(self, event: bytes) -> bytes:
        if not event.startswith(b"data: ") or not _to_decode(event):
            return self._splice(event) + b"\n\n"
        try:
            chunk = msgspec.json.decode(event[6:])
        except NOT_JSON:
            return self._splice(event) + b"\n\n"
        if not isinstance(chunk, dict) or not self._chunk(chunk):
            return self._splice(event) + b"\n\n"
        return self._splice(b"data: " + encode(chunk)) + b"\n\n"

    def _chunk(self, chunk: dict[str, Any]) -> bool:
        """Mends a chunk in place; False: it is fine as it came."""
        changed = False
        if "usage" in chunk and isinstance(chunk["usage"], dict):
            changed = _whole_usage(chunk)
        for choice in chunk.get("choices") or ():
            if not isinstance(choice, dict):
                continue
            delta = choice.get("delta")
            if isinstance(delta, dict) and isinstance(delta.get("tool_calls"), list):
                changed = self._tool_calls(choice, delta) or changed
            if isinstance(choice.get("finish_reason"), str):
                changed = self._finish(choice) or changed
        return changed

    def _tool_calls(self, choice: dict[str, Any], delta: dict[str, Any]) -> bool:
        """Takes note of the pieces of calls, and gives each its index and its type (C-10)."""
        calls = self._calls.setdefault(_index(choice), _Calls({}, {}, {}))
        changed, kept = False, []
        for position, call in enumerate(delta["tool_calls"]):
            if not isinstance(call, dict):
                continue
            index = call.get("index")
            if not isinstance(index, int):
                index = call["index"] = self._place(calls, call, position)
                changed = True
            function = call.get("function")
            function = function if isinstance(function, dict) else {}
            if index not in calls.arguments:
                calls.arguments[index] = []
                if "type" not in call:
                    call["type"] = "function"
                    changed = True
            calls.ids.setdefault(index, str(call.get("id") or ""))
            calls.names[index] = calls.names.get(index, "") + str(function.get("name") or "")
            calls.arguments[index].append(str(function.get("arguments") or ""))
            if calls.names[index] not in self._context.tools.custom and not self._context.tools.legacy:
                kept.append(call)
        if len(kept) != len(delta["tool_calls"]):
            changed = True
            delta.pop("tool_calls")
            if kept:
                delta["tool_calls"] = kept
        return changed

    @staticmethod
    def _place(calls: _Calls, call: dict[str, Any], position: int) -> int:
        """The index of a piece that names none: its call's by id, a new one, or its place."""
        identity = call.get("id")
        if identity:
            known = {value: key for key, value in calls.ids.items()}
            return known.get(identity, len(calls.ids))
        return position

    def _finish(self, choice: dict[str, Any]) -> bool:
        calls = self._calls.get(_index(choice), _Calls({}, {}, {}))
        wholes = {index: as_object("".join(said)) for index, said in calls.arguments.items()}
        complete = sum(whole is not None and bool(calls.names[index]) for index, whole in wholes.items())
        truncated = choice["finish_reason"] == "length"
        reason = finish(choice["finish_reason"], complete=complete, broken=len(wholes) - complete)
        withheld = self._withheld(calls, wholes) if not truncated and complete == len(wholes) else {}
        if withheld:
            delta = choice.get("delta")
            choice["delta"] = {**(delta if isinstance(delta, dict) else {}), **withheld}
        if reason == "tool_calls" and self._context.tools.legacy:
            reason = "function_call"
        changed = bool(withheld) or reason != choice["finish_reason"]
        choice["finish_reason"] = reason
        return changed

    def _withheld(self, calls: _Calls, wholes: dict[int, str | None]) -> dict[str, Any]:
        """Calls that the client must have in another form: known only now that they are whole."""
        if self._context.tools.legacy:
            first = next(iter(wholes), None)
            if first is None:
                return {}
            return {"function_call": {"name": calls.names[first], "arguments": "".join(calls.arguments[first])}}
        custom = [
            {
                "index": index,
                "id": calls.ids[index],
                "type": "custom",
                "custom": {"name": calls.names[index], "input": unshimmed(whole or "{}")},
            }
            for index, whole in wholes.items()
            if calls.names[index] in self._context.tools.custom
        ]
        return {"tool_calls": custom} if custom else {}


def _to_decode(events: bytes) -> bool:
    """Whether they end a choice, bring calls, or bring usage that clients may not take. As engines write usage it is
    fine, and stands on every event where a client asks for that."""
    return (
        b'"finish_reason":"' in events
        or b'"finish_reason": "' in events
        or b'"tool_calls"' in events
        or (b'"usage"' in events and _USAGE.search(events) is not None)
    )


def _index(choice: dict[str, Any]) -> int:
    index = choice.get("index")
    return index if isinstance(index, int) else 0


def _whole_usage(chunk: dict[str, Any]) -> bool:
    """Usage with all three counts, or none (C-10: some clients fail on less)."""
    usage = chunk["usage"]
    counts = [usage.get(key) for key in ("prompt_tokens", "completion_tokens")]
    if not any(isinstance(count, int) for count in counts):
        chunk["usage"] = None
        return True
    prompt, completion = (count if isinstance(count, int) else 0 for count in counts)
    whole = {**usage, "prompt_tokens": prompt, "completion_tokens": completion}
    if not isinstance(usage.get("total_tokens"), int):
        whole["total_tokens"] = prompt + completion
    if whole == usage:
        return False
    chunk["usage"] = whole
    return True

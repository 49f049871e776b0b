"""A conversation made acceptable to chat templates: roles in order, every tool call with its result.

Works on chat messages as plain values, whichever dialect they came from. Templates differ in what they refuse: a
system message that is not the first, two messages of one role in a row, a result without its call. Nothing is ever
moved into the leading system message, which would cost the prefix cache of the whole conversation.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cortex_core.fleet import ModelFacts
from cortex_core.translate import parts

Message = dict[str, Any]

NOT_EXECUTED = "(tool call was not executed)"
_SYSTEM = ("system", "developer")


def settle(messages: Iterable[Message], facts: ModelFacts, *, merge: bool = True) -> list[Message]:
    """The same conversation as templates take it. With `merge`, neighbours of one role become one message."""
    leading, segments = _segments(messages, facts)
    settled = [leading] if leading is not None else []
    for number, segment in enumerate(segments):
        _settle_segment(segment, settled, facts, merge=merge, last=number == len(segments) - 1)
    return settled


def reminder(content: Any) -> str:
    """A system message in the middle, for templates that take none there: the words that agents use themselves."""
    text = parts.joined(content).strip()
    return text if text.startswith("<system-reminder>") else f"<system-reminder>\n{text}\n</system-reminder>"


def _segments(messages: Iterable[Message], facts: ModelFacts) -> tuple[Message | None, list[list[Message]]]:
    """The leading system message, and then pieces that begin with an assistant's message (but perhaps the first)."""
    leading: list[Message] = []
    segments: list[list[Message]] = []
    for one in messages:
        message = one
        if message.get("role") == "developer" and not facts.accepts_developer:
            message = {**message, "role": "system"}
        role = message.get("role")
        if not segments and role in _SYSTEM:
            leading.append(message)
        elif role == "assistant" or not segments:
            segments.append([message])
        else:
            segments[-1].append(message)
    return _lead(leading, facts), segments


def _lead(leading: list[Message], facts: ModelFacts) -> Message | None:
    texts = [(message, parts.joined(message.get("content"))) for message in leading]
    told = [(message, text) for message, text in texts if text.strip()]
    if not told:
        return None
    if len(told) == 1:
        return told[0][0]
    role = "developer" if facts.accepts_developer and told[0][0]["role"] == "developer" else "system"
    return {"role": role, "content": "\n\n".join(text for _, text in told)}


def _settle_segment(
    segment: list[Message], settled: list[Message], facts: ModelFacts, *, merge: bool, last: bool
) -> None:
    rest = segment
    calls: list[str] = []
    if segment[0].get("role") == "assistant":
        assistant, rest = segment[0], segment[1:]
        previous = settled[-1] if settled else None
        if merge and previous is not None and previous.get("role") == "assistant":
            settled[-1] = assistant = _one_assistant(previous, assistant)
        else:
            settled.append(assistant)
        calls = call_ids(assistant)
    if not calls or (last and not rest):
        # Results without a call before them; or the turn ends with calls that the caller judges.
        _append(settled, [_orphan(m) if m.get("role") == "tool" else m for m in rest], facts, merge=merge)
        return
    if not rest and merge:
        return  # the next message is the assistant's too: its segment brings the results
    results = {m.get("tool_call_id"): m for m in rest if m.get("role") == "tool"}  # of a result given twice, the last
    settled.extend(results.get(call) or _missing(call) for call in calls)
    known = set(calls)
    others = [_orphan(m) if m.get("role") == "tool" else m for m in rest if not _is_result(m, known)]
    _append(settled, others, facts, merge=merge)


def call_ids(assistant: Message) -> list[str]:
    calls = assistant.get("tool_calls")
    return [call.get("id", "") for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []


def _is_result(message: Message, calls: set[str]) -> bool:
    return message.get("role") == "tool" and message.get("tool_call_id") in calls


def _missing(call: str) -> Message:
    return {"role": "tool", "tool_call_id": call, "content": NOT_EXECUTED}


def _orphan(message: Message) -> Message:
    """A result whose call is gone, which happens when a client compacts its history (A-18)."""
    label = f"[tool result {message.get('tool_call_id', '')}] {parts.joined(message.get('content'))}"
    return {"role": "user", "content": label}


def _one_assistant(first: Message, second: Message) -> Message:
    """Two assistant messages in a row are one turn."""
    merged = {**first, **second}
    contents = [parts.joined(m.get("content")) for m in (first, second)]
    merged["content"] = "".join(contents) or (None if "tool_calls" in merged else "")
    calls = [*(first.get("tool_calls") or []), *(second.get("tool_calls") or [])]
    if calls:
        merged["tool_calls"] = calls
    thoughts = [m["reasoning"] for m in (first, second) if m.get("reasoning")]
    if thoughts:
        merged["reasoning"] = "\n\n".join(thoughts)
    return merged


def _append(settled: list[Message], messages: list[Message], facts: ModelFacts, *, merge: bool) -> None:
    joins = False  # the last message put down is a reminder, which the next user message joins
    joined: list[parts.Part] | None = None  # of the last message, which others have joined
    for one in messages:
        message, reminds = one, False
        if message.get("role") in _SYSTEM and facts.system_first:
            message, reminds = {"role": "user", "content": reminder(message.get("content"))}, True
        last = settled[-1] if settled else None
        if (
            last is not None
            and last.get("role") == message.get("role") == "user"
            and (merge or reminds or joins)
            and last.get("name") == message.get("name")
        ):
            if joined is None:
                joined = parts.as_parts(last.get("content"))
            joined += parts.as_parts(message.get("content"))  # in place: there may be a hundred thousand
            if len(joined) == 1:
                joined = parts.as_parts(parts.plain(joined))
            settled[-1] = {**last, "content": parts.plain(joined)}
            joins = False
        else:
            settled.append(message)
            joined = None
            joins = reminds

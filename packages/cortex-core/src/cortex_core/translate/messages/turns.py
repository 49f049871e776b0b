"""Anthropic turns as chat messages, in the order they came; `history.settle` makes templates take them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Raw, Struct

from cortex_core.dialects.body import absent, bad, starts, typed
from cortex_core.fleet import ModelFacts
from cortex_core.translate import history, opaque, parts
from cortex_core.translate.messages import blocks
from cortex_core.translate.messages.blocks import Block, Reader

Message = dict[str, Any]


class Turn(Struct):
    role: str
    content: Raw = Raw()


class Conversation(Struct):
    messages: list[Message]
    prefilled: bool  # the answer continues the last message
    tool_changes: list[tuple[str, Raw]]  # tool_addition or tool_removal, and of what


_turns = msgspec.json.Decoder(list[Turn]).decode


def conversation(system: Raw | None, raw: Raw | None, facts: ModelFacts, model: str) -> Conversation:
    """Everything said so far.

    Raises:
        CortexError: bad_request, naming the field.
    """
    if raw is None or absent(raw):
        raise bad("messages", "is required")
    if starts(raw) != b"[":
        raise bad("messages", "must be an array of messages")
    turns = typed(raw, _turns, "messages")
    if not turns:
        raise bad("messages", "must hold at least one message")
    changes: list[tuple[str, Raw]] = []
    reader = Reader(facts, model)
    messages: list[Message] = []
    if system is not None and (text := blocks.system(system, "system")):
        messages.append({"role": "system", "content": text})
    for number, turn in enumerate(turns):
        messages.extend(_turn(turn, f"messages.{number}", reader, changes))
    messages = history.settle(messages, facts)
    if not messages:
        raise bad("messages", "must hold at least one message that says something")
    prefilled = turns[-1].role == "assistant" and _prefill(messages)
    return Conversation(messages, prefilled, changes)


def _turn(turn: Turn, where: str, reader: Reader, changes: list[tuple[str, Raw]]) -> Iterator[Message]:
    match turn.role:
        case "user":
            yield from _user(blocks.read(turn.content, f"{where}.content"), f"{where}.content", reader)
        case "assistant":
            yield _assistant(blocks.read(turn.content, f"{where}.content"), f"{where}.content")
        case "system" | "developer":
            said = blocks.read(turn.content, f"{where}.content")
            changes.extend((b.type, b.tool) for b in said if b.type in ("tool_addition", "tool_removal"))
            if text := blocks.system(turn.content, f"{where}.content"):
                yield {"role": "system", "content": text}
        case _:
            raise bad(f"{where}.role", "must be user, assistant or system")


def _user(said: list[Block], where: str, reader: Reader) -> Iterator[Message]:
    """Every result first, since nothing may stand between calls and results; then one message with the rest."""
    images: list[parts.Part] = []
    rest: list[parts.Part] = []
    results = False
    for number, block in enumerate(said):
        if block.type == "tool_result":
            results = True
            message, shown = reader.result(block, f"{where}.{number}")
            images.extend(shown)
            yield message
        else:
            rest.extend(reader.content(block, f"{where}.{number}"))
    if images or rest or not results:
        yield {"role": "user", "content": parts.plain(images + rest)}


def _assistant(said: list[Block], where: str) -> Message:
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[Message] = []
    for number, block in enumerate(said):
        at = f"{where}.{number}"
        match block.type:
            case "text":
                texts.append(blocks.words(block, at))
            case "thinking":
                thought = block.thinking if isinstance(block.thinking, str) else ""
                thoughts.append(thought or opaque.unseal(block.signature))
            case "tool_use":
                calls.append(_call(block, at))
            case _ if isinstance(block.text, str):
                texts.append(block.text)
    text = "".join(texts)
    message: Message = {"role": "assistant", "content": text or (None if calls else "")}
    if thought := "\n\n".join(filter(None, thoughts)):
        message["reasoning"] = thought
    if calls:
        message["tool_calls"] = calls
    return message


def _call(block: Block, where: str) -> Message:
    for field in ("id", "name"):
        value = getattr(block, field)
        if not isinstance(value, str) or not value:
            raise bad(f"{where}.{field}", "is required")
    arguments = blocks.tool_input(block.input, f"{where}.input")
    return {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": arguments}}


def _prefill(messages: list[Message]) -> bool:
    """Whether the answer continues the last message, which is the assistant's; an empty one asks for nothing (A-12).

    Raises:
        CortexError: the last message has calls, and nobody brings their results.
    """
    last = messages[-1]
    if last.get("tool_calls"):
        raise bad("messages", "must not end with tool_use: each needs its tool_result in the next message")
    if last["role"] != "assistant":
        return False
    text = parts.joined(last["content"]).rstrip()
    if not text:
        if len(messages) > 1:
            messages.pop()
        return False
    messages[-1] = {"role": "assistant", "content": text}
    return True

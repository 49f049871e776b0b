"""Anthropic content blocks as chat content parts. Whatever a model cannot read becomes words, never an error."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw, Struct

from cortex_core.dialects.body import absent, bad, encode, loads, starts, typed
from cortex_core.fleet import ModelFacts
from cortex_core.translate import parts
from cortex_core.translate.parts import Part


class Block(Struct):
    """Any block: the fields that some translation reads. Odd values of others are nobody's trouble."""

    type: str
    text: Any = None
    thinking: Any = None
    signature: Any = None
    id: Any = None
    name: Any = None
    input: Raw = Raw()
    tool_use_id: Any = None
    is_error: Any = None
    content: Raw = Raw()
    source: Raw = Raw()
    title: Any = None
    context: Any = None
    tool: Raw = Raw()


class Source(Struct):
    """Where an image or a document is."""

    type: str = ""
    media_type: str = ""
    data: Any = None
    url: Any = None
    content: Raw = Raw()


BILLING_HEADER = "x-anthropic-billing-header"

_blocks = msgspec.json.Decoder(list[Block]).decode
_string = msgspec.json.Decoder(str).decode
_source = msgspec.json.Decoder(Source).decode

_ERROR_MARKS = ("<tool_use_error>", "Error")


def read(raw: Raw, where: str) -> list[Block]:
    """Content: a string, or a list of blocks. Missing is none.

    Raises:
        CortexError: bad_request, naming the place.
    """
    if absent(raw):
        return []
    if starts(raw) == b'"':
        return [Block(type="text", text=typed(raw, _string, where))]
    if starts(raw) != b"[":
        raise bad(where, "must be a string or an array of blocks")
    return typed(raw, _blocks, where)


def words(block: Block, where: str) -> str:
    """The text of a text block."""
    if not isinstance(block.text, str):
        raise bad(f"{where}.text", "must be a string")
    return block.text


def system(raw: Raw, where: str) -> str:
    """A system prompt as one text. The billing header goes: it differs from conversation to conversation, and what
    follows it could not be taken from the prefix cache."""
    blocks = read(raw, where)
    texts = [block.text for block in blocks if isinstance(block.text, str)]
    return "\n\n".join(text for text in texts if text and not text.startswith(BILLING_HEADER))


class Reader:
    """Reads blocks for one model."""

    __slots__ = ("_facts", "_model")

    def __init__(self, facts: ModelFacts, model: str) -> None:
        self._facts = facts
        self._model = model

    def content(self, block: Block, where: str) -> list[Part]:
        """The parts that a block of a user's turn becomes; none for what is dropped."""
        match block.type:
            case "text":
                return [parts.text(text)] if (text := words(block, where)) else []
            case "image":
                return [self._image(block, where)]
            case "document":
                return self._document(block, where)
            case "search_result":
                return [parts.text(self._search_result(block, where))]
        return [parts.text(block.text)] if isinstance(block.text, str) and block.text else []

    def result(self, block: Block, where: str) -> tuple[dict[str, Any], list[Part]]:
        """A tool_result as its tool message, and the images that a tool message cannot hold (A-15 to A-17)."""
        if not isinstance(block.tool_use_id, str) or not block.tool_use_id:
            raise bad(f"{where}.tool_use_id", "is required")
        texts: list[str] = []
        images: list[Part] = []
        for number, inner in enumerate(read(block.content, f"{where}.content")):
            for part in self.content(inner, f"{where}.content.{number}"):
                if part["type"] == "text":
                    texts.append(part["text"])
                else:
                    images.append(part)
        said = "\n".join(texts)
        if block.is_error is True and not said.lstrip().startswith(_ERROR_MARKS):
            said = f"Error: {said}"
        if images:
            images.insert(0, parts.text(f"[images of the result of tool call {block.tool_use_id}]"))
            said = said or "[the result is an image: see below]"
        return {"role": "tool", "tool_call_id": block.tool_use_id, "content": said}, images

    def _image(self, block: Block, where: str) -> Part:
        source = _read_source(block, where)
        if not self._facts.vision:
            return parts.text(parts.no_vision(self._model))
        if source.type == "base64" and isinstance(source.data, str) and source.data:
            return parts.image_data(source.data, source.media_type)
        if source.type == "url" and isinstance(source.url, str):
            if self._facts.fetches_urls or source.url.startswith("data:"):
                return parts.image(source.url)
            return parts.text(parts.omitted("image", "URLs are not fetched here"))
        return parts.text(parts.omitted("image", source.type))

    def _document(self, block: Block, where: str) -> list[Part]:
        source = _read_source(block, where)
        title = block.title if isinstance(block.title, str) else ""
        if source.type == "content":
            inside = read(source.content, f"{where}.source.content")
            body = [p for n, b in enumerate(inside) for p in self.content(b, f"{where}.source.content.{n}")]
        elif source.type == "text" and isinstance(source.data, str):
            body = [parts.text(source.data)]
        else:
            what = "PDF document" if source.media_type == "application/pdf" else "document"
            size = len(source.data) * 3 // 4 if isinstance(source.data, str) else 0
            return [parts.text(parts.omitted(what, title, size))]
        heading = [f"[document{': ' + title if title else ''}]"]
        if isinstance(block.context, str) and block.context:
            heading.append(block.context)
        if len(body) == 1 and body[0]["type"] == "text":
            return [parts.text("\n".join([*heading, body[0]["text"]]))]
        return [parts.text("\n".join(heading)), *body]

    def _search_result(self, block: Block, where: str) -> str:
        title = block.title if isinstance(block.title, str) else ""
        source = typed(block.source, _any, f"{where}.source") if not absent(block.source) else None
        heading = f"{title} ({source})" if isinstance(source, str) else title
        inside = read(block.content, f"{where}.content")
        return "\n".join(filter(None, [heading, *(b.text for b in inside if isinstance(b.text, str))]))


def tool_input(raw: Raw, where: str) -> str:
    """A call's input as the JSON object that `arguments` holds, compact (A-13, A-14)."""
    value = None if absent(raw) else typed(raw, loads, where)
    if isinstance(value, str):
        value = _parsed(value)
    if value is None:
        value = {}
    return encode(value if isinstance(value, dict) else {"value": value}).decode()


def _parsed(value: str) -> Any:
    if not value:
        return None
    try:
        return loads(value)
    except (msgspec.MsgspecError, RecursionError):
        return value


def _any(raw: Raw) -> Any:
    return loads(raw)


def _read_source(block: Block, where: str) -> Source:
    if absent(block.source) or starts(block.source) != b"{":
        raise bad(f"{where}.source", "must be an object")
    return typed(block.source, _source, f"{where}.source")

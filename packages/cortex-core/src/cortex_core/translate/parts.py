"""Content parts of chat messages, and what takes the place of what a model cannot read."""

from __future__ import annotations

import base64
import binascii
from typing import Any

Part = dict[str, Any]

_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
)
_SNIFFED = 24  # characters of base64: 18 bytes


def text(value: str) -> Part:
    return {"type": "text", "text": value}


def image(url: str) -> Part:
    return {"type": "image_url", "image_url": {"url": url}}


def image_data(data: str, claimed: str = "") -> Part:
    """An image of base64 data. Its type is what its first bytes say: clients claim the wrong one (A-20)."""
    return image(f"data:{sniffed(data) or claimed or 'image/png'};base64,{data}")


def sniffed(data: str) -> str:
    """The media type that base64 data begins as; empty: unknown."""
    try:
        head = base64.b64decode(data[:_SNIFFED])
    except (binascii.Error, ValueError):
        return ""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for magic, kind in _MAGIC if head.startswith(magic)), "")


def no_vision(model: str) -> str:
    return f"[image omitted: model {model} has no vision]"


def omitted(what: str, name: str = "", size: int = 0) -> str:
    """Words in the place of something that was left out."""
    details = ", ".join(filter(None, [name, f"{max(1, size // 1024)} kB" if size else ""]))
    return f"[{what} omitted{': ' + details if details else ''}]"


def joined(content: Any, glue: str = "\n") -> str:
    """The text of any content: a string, parts, or none."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = (part if isinstance(part, str) else part.get("text") for part in content if isinstance(part, str | dict))
    return glue.join(one for one in texts if isinstance(one, str))


def as_parts(content: Any) -> list[Part]:
    if isinstance(content, str):
        return [text(content)] if content else []
    return [text(part) if isinstance(part, str) else part for part in content or [] if isinstance(part, str | dict)]


def plain(parts: list[Part]) -> str | list[Part]:
    """One text part alone is a plain string, which every template takes (A-10)."""
    if not parts:
        return ""
    if len(parts) == 1 and parts[0].get("type") == "text":
        return str(parts[0].get("text", ""))
    return parts

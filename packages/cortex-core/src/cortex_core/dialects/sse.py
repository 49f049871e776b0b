"""Server-sent events, sans I/O: bytes in at any split, events out, their raw bytes kept for passing on.

Follows the WHATWG HTML standard, section 9.2 (event stream format), with two differences: data stays bytes, because
what reads it is a JSON decoder, and a last event without its blank line is given by `end`, because some engines leave
it out. Events without data are not dispatched, as the standard has it; their bytes lead the next event's `raw`, so
that all raws and the `rest`, joined, are the stream.
"""

from __future__ import annotations

import re

import msgspec

_BOM = b"\xef\xbb\xbf"
_LINE_END = re.compile(rb"\r\n|\n|\r")
# Two line ends: the blank line that ends an event. A CR at the very end may be half of a CRLF, so it ends nothing yet.
_BLANK_LINE = re.compile(rb"(?:\r\n|\n|\r(?=[^\n]))(?:\r\n|\n|\r(?=[^\n]))")


class EventTooLarge(Exception):
    """An event is longer than the decoder holds."""


class Event(msgspec.Struct, frozen=True, gc=False):
    """One event. `event` is empty where the stream names none; `raw` is every byte of it, its blank line included."""

    data: bytes
    event: str
    id: str
    raw: bytes


class SseDecoder:
    """Feed it bytes as they come; the same bytes give the same events however they are split."""

    __slots__ = ("_buffer", "_max_bytes", "_raw", "_searched", "_started")

    def __init__(self, max_event_bytes: int = 16 * 2**20) -> None:
        self._max_bytes = max_event_bytes
        self._buffer = b""
        self._searched = 0  # up to here the buffer holds no blank line
        self._raw = b""  # blocks without data, which lead the next event
        self._started = False

    def feed(self, data: bytes) -> list[Event]:
        """The events that these bytes complete. Raises EventTooLarge."""
        buffer = self._buffer + data if self._buffer else data
        events: list[Event] = []
        start = 0
        if b"\r" not in buffer:
            while (end := buffer.find(b"\n\n", max(start, self._searched))) >= 0:
                self._dispatch(buffer[start : end + 2], events)
                start = end + 2
        else:
            while (found := _BLANK_LINE.search(buffer, max(start, self._searched))) is not None:
                self._dispatch(buffer[start : found.end()], events)
                start = found.end()
        self._buffer = buffer[start:]
        self._searched = max(0, len(self._buffer) - 3)  # the longest blank line has four bytes
        if len(self._buffer) + len(self._raw) > self._max_bytes:
            raise EventTooLarge(f"an event is over {self._max_bytes} bytes")
        return events

    def end(self) -> list[Event]:
        """The event that the end of the stream left without its blank line, if there is one."""
        events: list[Event] = []
        if self._buffer:
            self._dispatch(self._buffer, events)
        self._buffer = b""
        return events

    @property
    def at_boundary(self) -> bool:
        """Whether the bytes so far end with an event's end."""
        return not self._buffer

    @property
    def rest(self) -> bytes:
        """The bytes that no event has carried yet."""
        return self._raw + self._buffer

    def _dispatch(self, block: bytes, events: list[Event]) -> None:
        raw, self._raw = self._raw + block, b""
        if not self._started:
            self._started = True
            block = block.removeprefix(_BOM)
        if block.startswith(b"data: ") and block.find(b"\n") == len(block) - 2 and b"\r" not in block:
            events.append(Event(block[6:-2], "", "", raw))  # what nearly every event of every engine looks like
            return
        name = identity = b""
        lines: list[bytes] = []
        for line in _LINE_END.split(block):
            field, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if field == b"data":
                lines.append(value)
            elif field == b"event":
                name = value
            elif field == b"id" and b"\0" not in value:
                identity = value
        if lines:
            events.append(
                Event(b"\n".join(lines), name.decode(errors="replace"), identity.decode(errors="replace"), raw)
            )
        else:
            self._raw = raw


def encode(data: bytes, event: str = "", id: str = "") -> bytes:  # noqa: A002  # the field's name
    """One event with LF line ends. Data of several lines takes a `data:` line for each."""
    if "\n" in event or "\r" in event or "\n" in id or "\r" in id:
        raise ValueError("event and id are single lines")
    head = (f"event: {event}\n" if event else "") + (f"id: {id}\n" if id else "")
    if b"\n" not in data and b"\r" not in data:
        return b"%bdata: %b\n\n" % (head.encode(), data)
    return head.encode() + b"".join(b"data: %b\n" % line for line in _LINE_END.split(data)) + b"\n"

"""Request bodies: framing by length or by chunks, strict, and nothing beyond the message is touched.

Chunk extensions and trailers are refused (reliability F53): nobody needs them towards us, and they are what smuggling
is made of.
"""

from __future__ import annotations

import re

from cortex_core.http.head import Refusal

_SIZE = re.compile(rb"[0-9A-Fa-f]{1,8}")
_MOST_LINE = 8  # hexadecimal digits: 4 GiB, far over any limit on bodies


class LengthBody:
    """A body of a declared length. `feed` gives (body bytes, bytes behind the message)."""

    __slots__ = ("_left", "done")

    def __init__(self, length: int) -> None:
        self._left = length
        self.done = length == 0

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        left = self._left
        if len(data) < left:
            self._left = left - len(data)
            return data, b""
        self._left = 0
        self.done = True
        return data[:left], data[left:]


class ChunkedBody:
    """A body in chunks (RFC 9112 7.1). `feed` gives (body bytes, bytes behind the message); 400 on any deviation."""

    __slots__ = ("_last", "_left", "_line", "_size", "done")

    def __init__(self) -> None:
        self._line = b""  # an incomplete size line, or the line end behind a chunk
        self._left = 0  # bytes of the present chunk still to come
        self._size: int | None = None  # of the present chunk; None between chunks
        self._last = False  # the size line of zero has been read
        self.done = False

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        pieces: list[bytes] = []
        data = self._line + data
        self._line = b""
        at = 0
        while not self.done:
            if self._left:
                piece = data[at : at + self._left]
                if not piece:
                    break
                pieces.append(piece)
                at += len(piece)
                self._left -= len(piece)
            elif self._size is not None:  # the line end that closes a chunk, or the whole body
                end = data[at : at + 2]
                if not b"\r\n".startswith(end):
                    raise Refusal(400, "malformed chunk")
                if len(end) < 2:
                    self._line = end
                    break
                at += 2
                self._size = None
                self.done = self._last
            elif (step := self._size_line(data, at)) is not None:
                at = step
            else:
                break
        return b"".join(pieces), data[at:] if self.done else b""

    def _size_line(self, data: bytes, at: int) -> int | None:
        """Reads `size CRLF` at `at` and gives the offset behind it; None while it is incomplete."""
        end = data.find(b"\r\n", at, at + _MOST_LINE + 2)
        line = data[at:end] if end >= 0 else data[at:].removesuffix(b"\r")
        if len(line) > _MOST_LINE or (line and _SIZE.fullmatch(line) is None) or (end >= 0 and not line):
            raise Refusal(400, "malformed chunk size")
        if end < 0:
            if data[at:] == b"\r":
                raise Refusal(400, "malformed chunk size")
            self._line = data[at:]
            return None
        self._size = self._left = int(line, 16)
        self._last = self._left == 0
        return end + 2

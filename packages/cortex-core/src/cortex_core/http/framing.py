"""How one answer is framed on the wire, sans I/O: its head, its pieces, its end."""

from __future__ import annotations

import http

from cortex_core.http.asgi import Headers

_STATUS_LINES = {status.value: b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode()) for status in http.HTTPStatus}
_FRAMING = frozenset({b"content-length", b"transfer-encoding", b"connection"})
_LINE = b"%b: %b\r\n".__mod__
_END_OF_CHUNKS = b"0\r\n\r\n"


def header_lines(headers: Headers) -> bytes:
    """Headers as they are sent. Raises ValueError for one that could not be sent as it is."""
    lines = [*map(_LINE, headers)]
    joined = b"".join(lines)
    if len(joined.splitlines()) != len(lines) or 0 in joined:
        raise ValueError("a header holds a line break or NUL")
    return joined


class AnswerFraming:
    """By the length that the app declares, else by chunks, else (HTTP/1.0) by the close of the connection."""

    __slots__ = ("_bodyless", "_chunked", "_head", "_remaining", "closes")

    def __init__(self, method: str, version: str, status: int, headers: Headers, *, closes: bool, date: bytes) -> None:
        """Raises ValueError for a header that would split the head. `date` is the whole Date line."""
        own: list[tuple[bytes, bytes]] = []
        length: int | None = None
        for header in headers:
            if header[0] in _FRAMING:
                if header[0] != b"content-length":
                    continue  # the connection's business, not the app's
                length = int(header[1])
            own.append(header)
        self._bodyless = _is_bodyless(method, status)
        self._remaining = None if self._bodyless else length
        self._chunked = length is None and not self._bodyless and version == "1.1"
        if self._chunked:
            own.append((b"transfer-encoding", b"chunked"))
        self.closes = closes or (length is None and not self._bodyless and not self._chunked)
        # It waits for the first bytes of the body, so that they leave together.
        self._head = _head(status, own, closes=self.closes, date=date)

    @property
    def head_waits(self) -> bool:
        """Nothing has been written yet."""
        return bool(self._head)

    def piece(self, data: bytes, *, last: bool) -> bytes:
        """The bytes to write for this much of the body. Raises ValueError when they miss the declared length."""
        if self._chunked and not self._head and data and not last:  # most pieces of most streams
            return b"%x\r\n%b\r\n" % (len(data), data)
        if self._bodyless:
            data = b""
        if self._remaining is not None:
            self._remaining -= len(data)
            if self._remaining < 0 or (last and self._remaining):
                raise ValueError(
                    f"the answer is {'shorter' if self._remaining > 0 else 'longer'} than its content-length"
                )
        head, self._head = self._head, b""
        if not self._chunked:
            return head + data
        end = _END_OF_CHUNKS if last else b""
        return b"%b%x\r\n%b\r\n%b" % (head, len(data), data, end) if data else head + end

    def torn(self, last_words: bytes) -> bytes:
        """The bytes to write before an answer is broken off; words only where no length forbids them."""
        return self.piece(b"" if self._remaining is not None else last_words, last=False)


def whole_answer(status: int, headers: Headers, body: bytes, *, method: str, closes: bool, date: bytes) -> bytes:
    """A complete answer of known length. Raises ValueError for a header that would split its head."""
    own = [header for header in headers if header[0] not in _FRAMING]
    own.append((b"content-length", b"%d" % len(body)))
    head = _head(status, own, closes=closes, date=date)
    return head if _is_bodyless(method, status) else head + body


def _is_bodyless(method: str, status: int) -> bool:
    return method == "HEAD" or status in (204, 304) or status < 200


def _head(status: int, headers: Headers, *, closes: bool, date: bytes) -> bytes:
    status_line = _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
    return b"%b%b%b%b\r\n" % (status_line, header_lines(headers), b"connection: close\r\n" if closes else b"", date)

"""Request heads: bytes in, one checked `Head` out, or a `Refusal`.

llhttp (`httptools`) parses, because it is stricter than the h11 under hypercorn and costs a fraction of it: of 46 odd
requests it refuses by itself what h11 lets through (CL+TE, bare LF, obs-fold, HTTP/1.2, duplicate lengths), and a relay
on it needs 73 us a request where hypercorn's own protocol needs several times that. What llhttp accepts and we do not
(reliability 5.3b) is refused here. It sees heads only: where a head ends is found independently, and if the two ever
disagree the request is refused, so there is nothing to smuggle in between. Bodies are framed in `body.py`.

Clients say the same head again and again, to the byte or but for a length, and what it comes to depends on nothing
else: `Heads` keeps what it was read as.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

import httptools
import msgspec

from cortex_core.http.asgi import Scope
from cortex_core.http.limits import Limits

METHODS = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"})
_FRAMING = frozenset({b"host", b"content-length", b"transfer-encoding", b"expect"})
_END = b"\r\n\r\n"
_TARGET = re.compile(rb"/[!\"$-~]*")  # origin-form, visible ASCII, no fragment
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_KNOWN = 256  # targets and hosts that were found good: there are few of them and many requests
_KNOWN_HEADS, _KNOWN_HEAD_BYTES = 1000, 2000  # how many, and how long
_ONCE_HEADS = 4000
_ASGI = {"spec_version": "2.1", "version": "3.0"}


class Refusal(Exception):
    """A request that is not let in: answered with `status` and closed."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Head(msgspec.Struct, frozen=True, gc=False):
    """A request's head. Header names are lower case; `length` is None for a chunked body."""

    method: bytes
    target: bytes
    version: str
    headers: tuple[tuple[bytes, bytes], ...]
    keep_alive: bool
    length: int | None
    expects_continue: bool
    scope: Scope  # what it tells of its request's ASGI scope: read, copied, written to by `read_once` alone


class Heads:
    """The heads of one server's requests. Those that have come twice are kept, or heads that never come again would
    cost more than reading them; bounded by forgetting all."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._known: dict[bytes, Head] = {}
        self._once: set[int] = set()  # hashes of heads that have come once

    def whole(self, data: bytes) -> tuple[Head, int] | None:
        """The head that `data` begins with, and the offset at which its body begins. None: it is not all there, or too
        long to be kept, and a `HeadReader` takes it as it comes. Raises Refusal."""
        found = data.find(_END, 0, _KNOWN_HEAD_BYTES)
        if found < 0:
            return None
        end = found + len(_END)
        raw = data[:end]
        return self._known.get(raw) or self._read(raw), end

    def _read(self, data: bytes) -> Head:
        found = HeadReader(self._limits).feed(data)
        assert found is not None  # it holds the end
        known, once = self._known, self._once
        if hash(data) in once:
            if len(known) >= _KNOWN_HEADS:
                known.clear()
            known[data] = found[0]
        else:
            if len(once) >= _ONCE_HEADS:
                once.clear()
            once.add(hash(data))
        return found[0]


class HeadReader:
    """Reads one head. `feed` takes bytes until it returns the head and the offset at which its body begins."""

    __slots__ = ("_complete", "_headers", "_keep_alive", "_limits", "_line", "_parser", "_size", "_tail", "_target")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._parser = httptools.HttpRequestParser(self)
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._line = b""  # the request line, as far as it has come
        self._tail = b""  # the last bytes fed, where the end of the head may have begun
        self._size = 0
        self._complete = False
        self._keep_alive = False

    def feed(self, data: bytes) -> tuple[Head, int] | None:
        tail = self._tail
        found = (tail + data if tail else data).find(_END)
        end = found + len(_END) - len(tail) if found >= 0 else len(data)
        piece = data if end == len(data) else data[:end]
        self._size += end
        if self._size > self._limits.header_bytes:
            raise Refusal(431, "the request's headers are too large")
        if b"\r\n" not in self._line:
            self._line = self._line + piece if self._line else piece
        if found < 0:
            self._tail = (tail + piece)[-3:]
        self._parse(piece)
        if self._complete != (found >= 0):
            raise Refusal(400, "malformed request head")
        return (self._head(), end) if found >= 0 else None

    def _parse(self, piece: bytes) -> None:
        try:
            self._parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            return  # CONNECT is no method of ours; an Upgrade is ignored (RFC 9110 7.8): the answer is HTTP/1.1
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            raise cause if cause is not None else error from None
        except httptools.HttpParserError:
            raise Refusal(400, "malformed request") from None

    def on_url(self, piece: bytes) -> None:
        self._target += piece
        if len(self._target) > self._limits.target_bytes:
            raise Refusal(414, "the request's target is too long")

    def on_header(self, name: bytes, value: bytes | None) -> None:
        self._headers.append((name.lower(), value or b""))

    def on_headers_complete(self) -> None:
        self._complete = True
        self._keep_alive = self._parser.should_keep_alive()  # llhttp forgets it with the end of the message

    def _head(self) -> Head:
        method = self._parser.get_method()
        version = self._parser.get_http_version()
        del self._parser  # it holds us: without this each request would leave a cycle to the collector
        if len(self._headers) > self._limits.header_count:
            raise Refusal(431, "the request has too many headers")
        line = b"%b %b HTTP/%b\r\n" % (method, self._target, version.encode())
        if version not in ("1.1", "1.0") or not self._line.startswith(line):
            raise Refusal(400, "malformed request line")  # also two spaces, HTTP/0.9 and other protocols' names
        if method not in METHODS:
            raise Refusal(501 if method != b"CONNECT" else 400, "this method is not served")
        _check_target(self._target)
        length, expects = self._framing(version)
        headers = tuple(self._headers)
        scope = _scope(method, self._target, version, headers)
        return Head(method, self._target, version, headers, self._keep_alive, length, expects, scope)

    def _framing(self, version: str) -> tuple[int | None, bool]:
        hosts = 0
        length: int | None = 0
        expects = False
        for name, value in self._headers:
            if name not in _FRAMING:
                continue
            if name == b"host":
                hosts += 1
                if not _is_host(value):
                    raise Refusal(400, "malformed Host header")
            elif name == b"content-length":
                length = int(value)
            elif name == b"transfer-encoding":
                if version == "1.0" or value.lower() != b"chunked":
                    raise Refusal(400, "this Transfer-Encoding is not accepted")
                length = None
            else:
                if value.lower() != b"100-continue":
                    raise Refusal(417, "this expectation cannot be met")
                expects = version == "1.1"
        if hosts > 1 or (hosts == 0 and version == "1.1"):
            raise Refusal(400, "exactly one Host header is required")
        return length, expects


@lru_cache(_KNOWN)
def _is_host(value: bytes) -> bool:
    return _HOST.fullmatch(value) is not None


@lru_cache(_KNOWN)
def _check_target(target: bytes) -> None:
    """The target in origin-form, its path decodable once, without control characters behind percent signs."""
    if _TARGET.fullmatch(target) is None:
        raise Refusal(400, "the target must be a path")
    if b"%" in target:
        try:
            path = unquote_to_bytes(target.partition(b"?")[0]).decode()
        except UnicodeDecodeError:
            raise Refusal(400, "the path is not UTF-8") from None
        if _CONTROL.search(path):
            raise Refusal(400, "the path holds control characters")


def _scope(method: bytes, target: bytes, version: str, headers: tuple[tuple[bytes, bytes], ...]) -> Scope:
    path, _, query = target.partition(b"?")
    text = path.decode("ascii")
    scope: dict[str, Any] = {
        "type": "http",
        "http_version": version,
        "asgi": _ASGI,
        "method": method.decode(),
        "path": unquote(text) if "%" in text else text,
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": headers,
        "cortex.read": {},
    }
    return scope

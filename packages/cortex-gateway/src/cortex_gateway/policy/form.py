"""Requests that are forms (RFC 7578): audio to be transcribed or translated, with the model's name in a field (L-05).

A form is looked through as it comes, so that no piece of it takes long, and held until it is whole: an engine cannot
begin before the last byte of a recording, whoever uploads slowly takes no replica's slot, and a held one can wait for
a load and be decided again. There is one copy of it, and but for the name of the model it reaches the engine as it
came.
"""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

from cortex_core.dialects.body import bad
from cortex_core.errors import CortexError
from cortex_gateway.policy.body import Form, Resolve, Wanted

MOST_PARTS = 64
HEAD_BYTES = 4096  # of one part
FIELD_BYTES = 1024  # of a value that is read
AUDIO_BYTES_A_TOKEN = 1000  # for a guess: half a minute of compressed speech is about a hundred tokens

_BOUNDARY = re.compile(r'boundary=(?:"([^"]{1,70})"|([^;,\s"]{1,70}))', re.IGNORECASE)
_NAME = re.compile(rb'(?:^|[;\s])name="([^"]{1,64})"', re.IGNORECASE)
_TRUE = frozenset({b"true", b"True", b"1"})


class Part(NamedTuple):
    start: int  # of its value
    end: int


class Reader:
    """One form as it comes. What is wrong with it is told by `wanted`: at its end, when every client listens."""

    def __init__(self, content_type: str) -> None:
        self.body = bytearray()
        self._content_type = content_type
        found = _BOUNDARY.search(content_type)
        self._problem = ""
        if not content_type.lower().startswith("multipart/form-data") or found is None:
            self._problem = "the body must be multipart/form-data with a boundary"
        self._line = b"\r\n--" + (found[1] or found[2]).encode("latin-1") if found else b""
        self._parts: dict[bytes, Part] = {}  # by name; of two with one name the last
        self._count = 0
        self._begun = self._ended = False  # the first boundary was seen, the last one
        self._at = 0  # where the present part begins
        self._seen = 0  # before it no boundary lies that has not been taken

    def feed(self, piece: bytes) -> None:
        """The next bytes, which may be any number. Nothing is kept of what cannot be read."""
        if self._problem:
            return
        self.body += piece
        while not self._ended and not self._problem:
            found = self._boundary()
            behind = found + len(self._line)
            if behind + 2 > len(self.body):  # it, or what tells whether it is the last, is still to come
                return
            if self._begun:
                self._part(found)
            self._begun, self._at, self._seen = True, behind, behind
            self._ended = self.body.startswith(b"--", behind)

    def wanted(self, resolve: Resolve) -> Wanted:
        """What the whole form wants: it has a `model` and a `file`. The last word: the payload is the body itself.

        Raises:
            CortexError: bad_request, naming the field; or what `resolve` raises.
        """
        problem = self._problem or ("the form does not begin with its boundary" if not self._begun else "")
        if problem or not self._ended:
            raise CortexError("bad_request", problem or "the form is not whole")
        for name in ("file", "model"):
            if name.encode() not in self._parts:
                raise bad(name, "is required")
        asked = self._value("model").decode(errors="replace")
        if not asked:
            raise bad("model", "is required")
        target = resolve(asked)
        start, end = self._parts[b"file"]
        stream = b"stream" in self._parts and self._value("stream") in _TRUE
        head = hashlib.blake2b(self.body[start : min(end, start + 1024)], digest_size=8).hexdigest()
        if target.engine != asked:
            self.body[slice(*self._parts[b"model"])] = target.engine.encode()
        return Wanted(
            model=target.model,
            stream=stream,
            tokens=max(1, (end - start) // AUDIO_BYTES_A_TOKEN),
            prompt_tokens=0,
            session="",
            head=head,
            payload=self.body,
            answer=Form(asked if target.engine != asked else ""),
            content_type=self._content_type.encode("latin-1"),
        )

    def _boundary(self) -> int:
        """Where the next one begins, with the line end before it; where it may yet begin, when there is none."""
        if not self._begun and self.body.startswith(self._line[2:]):
            return -2
        found = self.body.find(self._line, self._seen)
        self._seen = found if found >= 0 else max(self._seen, len(self.body) - len(self._line) + 1)
        return self._seen

    def _part(self, end: int) -> None:
        """A part ends here."""
        self._count += 1
        head = self.body.find(b"\r\n\r\n", self._at, min(self._at + HEAD_BYTES, end + 4))
        if head < 0 or self._count > MOST_PARTS:
            self._problem = "the form is not whole" if head < 0 else f"the form has more than {MOST_PARTS} parts"
            self.body.clear()
            return
        name = _NAME.search(self.body[self._at : head])
        if name is not None:
            self._parts[name[1]] = Part(head + 4, max(head + 4, end))

    def _value(self, name: str) -> bytes:
        start, end = self._parts[name.encode()]
        if end - start > FIELD_BYTES:
            raise bad(name, f"must have at most {FIELD_BYTES} bytes")
        return bytes(self.body[start:end]).strip()

"""Requests that are forms (RFC 7578): audio to be transcribed or translated, with the model's name in a field (L-05).

The form is held whole like every body, so that it can be decided again; its pieces are only looked at, and but for the
name of the model they reach the engine as they came.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
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
    name: bytes
    start: int  # of its value
    end: int


def read(body: bytes, content_type: str, resolve: Resolve) -> Wanted:
    """A form with a `model` and a `file`.

    Raises:
        CortexError: bad_request, naming the field; or what `resolve` raises.
    """
    found = _BOUNDARY.search(content_type)
    if not content_type.lower().startswith("multipart/form-data") or found is None:
        raise CortexError("bad_request", "the body must be multipart/form-data with a boundary")
    fields = {part.name: part for part in parts(body, (found[1] or found[2]).encode("latin-1"))}
    for name in ("file", "model"):
        if name.encode() not in fields:
            raise bad(name, "is required")
    asked = _value(body, fields[b"model"], "model").decode(errors="replace")
    if not asked:
        raise bad("model", "is required")
    target = resolve(asked)
    stream = b"stream" in fields and _value(body, fields[b"stream"], "stream") in _TRUE
    payload = body
    if target.engine != asked:
        _, start, end = fields[b"model"]
        payload = body[:start] + target.engine.encode() + body[end:]
    _, start, end = fields[b"file"]
    return Wanted(
        model=target.model,
        asked=asked,
        stream=stream,
        tokens=max(1, (end - start) // AUDIO_BYTES_A_TOKEN),
        prompt_tokens=0,
        session="",
        head=hashlib.blake2b(body[start : start + 1024], digest_size=8).hexdigest(),
        payload=payload,
        answer=Form(asked if target.engine != asked else ""),
        content_type=content_type.encode("latin-1"),
    )


def parts(body: bytes, boundary: bytes) -> Iterator[Part]:
    """The parts that have a name.

    Raises:
        CortexError: bad_request: it is no form, or it does not end.
    """
    line = b"--" + boundary
    at = 0 if body.startswith(line) else body.find(b"\r\n" + line) + 2  # a preamble may stand before it
    if at == 1:
        raise CortexError("bad_request", "the form does not begin with its boundary")
    for _ in range(MOST_PARTS):
        at += len(line)
        if body.startswith(b"--", at):
            return
        start = body.find(b"\r\n\r\n", at, at + HEAD_BYTES)
        end = body.find(b"\r\n" + line, max(at, start))
        if start < 0 or end < 0:
            raise CortexError("bad_request", "the form is not whole")
        name = _NAME.search(body[at:start])
        if name is not None:
            yield Part(name[1], start + 4, max(start + 4, end))
        at = end + 2
    raise CortexError("bad_request", f"the form has more than {MOST_PARTS} parts")


def _value(body: bytes, part: Part, name: str) -> bytes:
    if part.end - part.start > FIELD_BYTES:
        raise bad(name, f"must have at most {FIELD_BYTES} bytes")
    return body[part.start : part.end].strip()

"""Bodies with something wrong: every part of a good one replaced, repeated, dropped or broken, again and again."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

Span = tuple[int, int]

ODD: tuple[bytes, ...] = (
    b"null", b"true", b"false", b"0", b"-1", b"1.5", b"1e400", b"-0.0", b"18446744073709551616", b"NaN", b"Infinity",
    b'""', b'"x"', b'"\\ud83d"', b'"\\ud83d\\ude00"', b'"\\u0000"', b'"\xc3\xa9"', b'"' + b"long " * 2000 + b'"',
    b"[]", b"{}", b"[null]", b"[{}]", b"[[]]", b'[""]', b'{"type":null}', b'{"type":5}', b'{"type":"text"}',
    b'{"type":"unheard-of","text":"x"}', b'{"type":"text","text":5}', b"[" * 200 + b"]" * 200,
    b'{"a":' * 100 + b"1" + b"}" * 100, b"[" * 5000, b'{"a":1,"a":2}', b'"auto"', b'"none"', b'"tool"', b'"system"',
    b'"assistant"', b'{"role":"user","content":"x"}', b'{"role":"tool","content":[{}]}', b'"tiny"', b'"data:,"',
    b'{"type":"image","source":{"type":"base64","media_type":"image/png","data":5}}', b'{"cortex":{"$ref":"#"}}',
)  # fmt: skip
_BYTES = b'"\\{}[]:,\x00\xff\xc3\xed\xa0\x80 \n0e-'


def spans(body: bytes) -> list[Span]:
    """Where each value of a JSON text lies, and each member of an object with its key."""
    text = body.decode("latin-1")  # so that offsets are those of the bytes
    found: list[Span] = []
    decode = json.JSONDecoder().raw_decode

    def blank(at: int) -> int:
        while text[at] in " \n":
            at += 1
        return at

    def value(at: int) -> int:
        at = blank(at)
        end = decode(text, at)[1]
        found.append((at, end))
        inner = at + 1
        while text[at] in "[{" and text[blank(inner)] not in "]}":
            inner = blank(inner)
            if text[at] == "{":
                key = inner
                inner = value(blank(decode(text, inner)[1]) + 1)
                found.append((key, inner))
            else:
                inner = value(inner)
            inner = blank(inner)
            if text[inner] == ",":
                inner += 1
        return end

    value(0)
    return found


def mutants(body: bytes, rng: random.Random, *, form: bool = False) -> Iterator[bytes]:
    """For ever. `form`: it is no JSON, so only its bytes are touched."""
    parts = [] if form else spans(body)
    while True:
        mutant, where = body, parts
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            if where and rng.random() < 0.8:
                at, end = rng.choice(where)
                mutant = mutant[:at] + _in_place_of(mutant[at:end], body, parts, rng) + mutant[end:]
                where = []  # nothing lies where it lay
            else:
                mutant = _broken(mutant, rng)
        yield mutant


def _in_place_of(part: bytes, body: bytes, parts: list[Span], rng: random.Random) -> bytes:
    kind = rng.random()
    if kind < 0.6:
        return rng.choice(ODD)
    if kind < 0.75:
        at, end = rng.choice(parts)
        return body[at:end]
    return part + b"," + part if kind < 0.9 else b""


def _broken(body: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(body) + 1)
    kind = rng.random()
    if kind < 0.3:
        return body[:at] + bytes([rng.choice(_BYTES)]) + body[at + 1 :]
    if kind < 0.5:
        return body[:at] + bytes(rng.choices(_BYTES, k=rng.randrange(1, 9))) + body[at:]
    if kind < 0.7:
        return body[:at] + body[at + rng.randrange(1, 40) :]
    return body[:at] if kind < 0.85 else body[at:] + body[:at]


def encoded(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()

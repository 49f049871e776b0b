"""Hostile bodies: plain ones of every endpoint, the ways to spoil them, and the largest that a client may send.

Run as a program it is the client that sends the large ones, from a process of its own.
"""

from __future__ import annotations

import copy
import http.client
import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

MIB = 2**20

TOOL = {"type": "object", "properties": {"city": {"type": "string", "pattern": "^[a-z]+$"}}, "required": ["city"]}
TURNS: list[dict[str, Any]] = [
    {"role": "system", "content": "You are brief."},
    {"role": "user", "content": [{"type": "text", "text": "What is this?"},
                                 {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}]},
    {"role": "assistant", "content": None, "tool_calls": [
        {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{\"city\":\"ulm\"}"}}]},
    {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
]  # fmt: skip
BLOCKS: list[dict[str, Any]] = [
    {"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}]},
    {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "x"},
                                      {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "ulm"}}]},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "sunny", "is_error": False}]},
]  # fmt: skip
ITEMS: list[dict[str, Any]] = [
    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
    {"type": "function_call", "call_id": "f1", "name": "weather", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "f1", "output": "sunny"},
    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
]
PLAIN: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "messages": TURNS, "stream": True, "stream_options": {"include_usage": True}, "temperature": 0.5, "n": 1,
        "tools": [{"type": "function", "function": {"name": "weather", "parameters": TOOL, "strict": True}}],
        "tool_choice": "auto", "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": TOOL}},
        "max_tokens": 9, "stop": ["\n"], "logit_bias": {"5": -1}, "seed": 7, "reasoning_effort": "low",
    },
    "/v1/completions": {"prompt": "Once", "max_tokens": 5, "stream": False, "logprobs": 2, "echo": False},
    "/v1/messages": {
        "max_tokens": 64, "messages": BLOCKS, "system": [{"type": "text", "text": "Be brief"}], "stream": True,
        "tools": [{"name": "weather", "description": "d", "input_schema": TOOL}], "tool_choice": {"type": "any"},
        "thinking": {"type": "enabled", "budget_tokens": 1024}, "metadata": {"user_id": "u"}, "stop_sequences": ["a"],
    },
    "/v1/responses": {
        "input": ITEMS, "instructions": "Be brief", "stream": True, "store": False, "max_output_tokens": 64,
        "tools": [{"type": "function", "name": "weather", "parameters": TOOL}], "text": {"format": {"type": "text"}},
        "reasoning": {"effort": "low"}, "parallel_tool_calls": True, "metadata": {"a": "b"}, "include": [],
    },
    "/v1/embeddings": {"input": ["a", "b"], "encoding_format": "float", "dimensions": 8},
    "/v1/rerank": {"query": "a", "documents": ["b", "c"], "top_n": 1},
    "/tokenize": {"prompt": "a", "add_special_tokens": True},
    "/v1/messages/count_tokens": {"messages": BLOCKS, "system": "s"},
}  # fmt: skip

ODD: list[Any] = [
    None, True, False, 0, -1, 1.5, -0.0, 1e308, 2**31, 2**53 + 1, 2**63, 2**64, -(2**63) - 1, "", "a", "\u0000",
    "\uffff", "\U0001f600", " tiny ", "tiny", "../../x", [], {}, [[]], [{}], {"": ""}, {"type": None},
    {"type": "text"}, {"role": "user"}, [None], "x" * 300, list(range(50)), {str(n): n for n in range(50)},
]  # fmt: skip
NAMES = ["model", "stream", "type", "role", "content", "x", ""]
TOKENS = [
    b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e-999", b"9" * 400, b"-", b"01", b"1.", b".5", b"0x1", b"tru",
    b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\u0000"', b'"\\x"', b'"\x00"', b'"\xff"', b'"\xed\xa0\x80"', b"'a'",
    b"[" * 1200, b"[" * 300 + b"]" * 300, b'{"a":' * 1200, b"\xef\xbb\xbf{}", b"/**/1", b"[1,]", b'{"a":1,"a":2}',
    b'{"mod\\u0065l":"tiny"}', b",", b":", b"}", b"]", b"",
]  # fmt: skip


def spoilt(choose: random.Random) -> tuple[str, bytes]:
    """An endpoint, and a body that is not quite what it takes."""
    path = choose.choice(list(PLAIN))
    value = {"model": "tiny", **copy.deepcopy(PLAIN[path])}
    for _ in range(choose.randrange(4)):
        _bend(choose, value)
    body = json.dumps(value, ensure_ascii=choose.random() < 0.5).encode("utf-8", "surrogatepass")
    for _ in range(choose.randrange(3)):
        body = choose.choice((_flip, _cut, _repeat, _token))(choose, body)
    return path, body


def _bend(choose: random.Random, value: dict[str, Any]) -> None:
    """Puts something odd in the place of some value, or takes it away."""
    at: Any = value
    while True:
        key: Any = choose.choice(list(at)) if isinstance(at, dict) else choose.randrange(len(at))
        if isinstance(at[key], dict | list) and at[key] and choose.random() < 0.8:
            at = at[key]
            continue
        match choose.randrange(4):
            case 0:
                del at[key]
            case 1 if isinstance(at, dict):
                at[choose.choice(["model", "stream", "type", "role", "content", "x", ""])] = copy.deepcopy(
                    choose.choice(ODD)
                )
            case _:
                at[key] = copy.deepcopy(choose.choice(ODD))
        if not value:
            value["model"] = "tiny"
        return


def _flip(choose: random.Random, body: bytes) -> bytes:
    at = choose.randrange(len(body) + 1)
    return body[:at] + choose.randbytes(choose.randrange(3)) + body[at + choose.randrange(3) :]


def _cut(choose: random.Random, body: bytes) -> bytes:
    return body[: choose.randrange(len(body) + 1)]


def _repeat(choose: random.Random, body: bytes) -> bytes:
    at = choose.randrange(len(body) + 1)
    piece = body[at : at + choose.randrange(40)]
    return body[:at] + piece * choose.randrange(4) + body[at:]


def _token(choose: random.Random, body: bytes) -> bytes:
    """Something that is no JSON, or odd JSON, in the place of a value."""
    places = [n for n, byte in enumerate(body) if byte in b":,["] or [0]
    at = choose.choice(places) + 1
    end = min((n for n in (body.find(mark, at) for mark in (b",", b"}", b"]")) if n >= 0), default=at)
    return body[:at] + choose.choice(TOKENS) + body[end:]


# --- the largest


def _filled(head: bytes, unit: bytes, tail: bytes) -> Callable[[int], bytes]:
    return lambda size: head + unit * ((size - len(head) - len(tail)) // len(unit)) + tail


def _numbered(head: bytes, tail: bytes) -> Callable[[int], bytes]:
    """An object with a million keys, or as many as fit."""
    return lambda size: head + b"".join(b',"k%d":%d' % (n, n) for n in range(min(10**6, size // 20))) + tail


_CHAT = b'{"model":"tiny","messages":['
_TURN = b'{"role":"user","content":"a"}'
_PART = b'{"type":"text","text":"a"}'
_TOOL = b'{"type":"function","function":{"name":"a"}}'
_SAID = _CHAT + b'{"role":"user","content":"'
_ASKED = _CHAT + _TURN + b"]"
LARGE: dict[str, Callable[[int], bytes]] = {
    "one string": _filled(_SAID, b"a", b'"}]}'),
    "one string of escapes": _filled(_SAID, b"\\n", b'"}]}'),
    "one string of two-byte letters": _filled(_SAID, b"\xc3\xa9", b'"}]}'),
    "half surrogate pairs": _filled(_SAID, b"\\ud800", b'"}]}'),
    "surrogate pairs": _filled(_SAID, b"\\ud83d\\ude00", b'"}]}'),
    "messages": _filled(_CHAT + _TURN, b"," + _TURN, b"]}"),
    "empty messages": _filled(_CHAT + b"{}", b",{}", b"]}"),
    "a million keys": _numbered(b'{"model":"tiny"', b"}"),
    "a million keys inside": _numbered(_ASKED + b',"metadata":{"a":1', b"}}"),
    "one key again and again": _filled(b'{"model":"tiny"', b',"a":1', b"}"),
    "deep lists": _filled(b'{"model":"tiny","messages":', b"[", b"}"),
    "deep objects": _filled(b'{"model":"tiny","messages":', b'{"a":', b"}"),
    "a number without end": _filled(_ASKED + b',"n":', b"9", b"}"),
    "blanks": _filled(b'{"model":"tiny"', b" ", b"}"),
    "nothing but blanks": _filled(b"", b" ", b""),
    "no end": _filled(_CHAT + _TURN, b"," + _TURN, b""),
    "not UTF-8 at the end": _filled(_SAID, b"\xc3\xa9", b'\xff"}]}'),
    "text parts": _filled(_CHAT + b'{"role":"user","content":[' + _PART, b"," + _PART, b"]}]}"),
    "tools": _filled(_ASKED + b',"tools":[' + _TOOL, b"," + _TOOL, b"]}"),
    "stops": _filled(_ASKED + b',"stop":["a"', b',"a"', b"]}"),
    "biases": _numbered(_ASKED + b',"logit_bias":{"0":1', b"}}"),
}
PATHS = ("/v1/chat/completions", "/v1/messages", "/v1/responses")
FORM, FORM_PATH = "a form that nearly ends all the time", "/v1/audio/transcriptions"
_FIELD = b'--edge\r\nContent-Disposition: form-data; name="%b"\r\n\r\n'
form = _filled(_FIELD % b"model" + b"tiny\r\n" + _FIELD % b"file", b"\r\n--edg", b"\r\n--edge--\r\n")


def large(names: Sequence[str], limit_bytes: int) -> Iterator[tuple[str, str, bytes]]:
    """Large bodies for every dialect, and one form, as (name, path, body)."""
    for name in names:
        for path in PATHS:
            body = LARGE[name](limit_bytes - 32)
            if path == "/v1/responses":
                body = body.replace(b'"messages"', b'"input"', 1)
            elif path == "/v1/messages":
                body = body.replace(b'{"model":"tiny"', b'{"model":"tiny","max_tokens":9', 1)
            yield name, path, body
    yield FORM, FORM_PATH, form(limit_bytes - 32)


def main(address: str, limit_mib: str, *names: str) -> None:
    """Sends them, one after the other, and prints what each came to."""
    for name, path, body in large(names, int(limit_mib) * MIB):
        connection = http.client.HTTPConnection(address, timeout=60)
        began = time.monotonic()
        kind = "multipart/form-data; boundary=edge" if path == FORM_PATH else "application/json"
        connection.request("POST", path, body, {"content-type": kind})
        answer = connection.getresponse()
        answer.read()
        connection.close()
        print(json.dumps([name, path, answer.status, time.monotonic() - began]), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])

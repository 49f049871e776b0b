"""A client of the gateway, as small as one can be: what a request was answered, and how long its first token took."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

ANSWER_S = 300  # the longest wait for one read: a cold load on a busy machine


class BadAnswer(Exception):
    """The other side did not do what was promised."""


@dataclass(frozen=True, slots=True)
class Answer:
    text: str
    ttft_s: float  # from the request to the first content token
    seconds: float
    usage: dict[str, Any]
    headers: dict[str, str]


def get(port: int, path: str, *, timeout_s: float = 10) -> str:
    """The body of a GET on loopback that answers 200."""
    return _exchange(port, "GET", path, None, timeout_s)


def post(port: int, path: str, body: dict[str, Any]) -> Any:
    return json.loads(_exchange(port, "POST", path, body, ANSWER_S))


def chat(port: int, model: str, question: str, *, max_tokens: int = 16) -> Answer:
    """One streamed chat completion, read to its [DONE]."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    headers: dict[str, str] = {}
    usage: dict[str, Any] = {}
    started, first, text = time.monotonic(), 0.0, ""
    for event in _events(port, "/v1/chat/completions", body, headers):
        if "error" in event:
            raise BadAnswer(f"error in the stream: {event['error']}")
        for choice in event.get("choices", []):
            if content := choice.get("delta", {}).get("content"):
                first = first or time.monotonic()
                text += content
        usage = event.get("usage") or usage
    ended = time.monotonic()
    return Answer(text=text, ttft_s=(first or ended) - started, seconds=ended - started, usage=usage, headers=headers)


def _events(port: int, path: str, body: dict[str, Any], headers: dict[str, str]) -> Iterator[dict[str, Any]]:
    """The events of a stream that ends as it should; its response headers, in lower case, are put into `headers`."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)
    try:
        connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise BadAnswer(f"{path} answered {answer.status}: {answer.read().decode(errors='replace')[:500]}")
        headers.update({name.lower(): value for name, value in answer.getheaders()})
        for line in answer:
            if line.startswith(b"data: "):
                data = line.removeprefix(b"data: ").strip()
                if data == b"[DONE]":
                    return
                yield json.loads(data)
        raise BadAnswer("the stream ended without [DONE]")
    finally:
        connection.close()


def _exchange(port: int, method: str, path: str, body: dict[str, Any] | None, timeout_s: float) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        sent = None if body is None else json.dumps(body)
        connection.request(method, path, sent, {"content-type": "application/json"} if sent else {})
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
    finally:
        connection.close()
    if answer.status != 200:
        raise BadAnswer(f"{method} {path} answered {answer.status}: {text[:500]}")
    return text

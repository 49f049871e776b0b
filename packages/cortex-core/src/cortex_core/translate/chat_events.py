"""The engine's chat stream as typed events: what every translator reads.

Few fields, decoded once: a chunk costs about a microsecond. Usage stays raw, because it may stand on every chunk and
only the last one counts.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec
from msgspec import Raw, Struct

from cortex_core.dialects.body import NOT_JSON, encode
from cortex_core.dialects.sse import EventTooLarge, SseDecoder
from cortex_core.errors import CortexError

GAVE_UP = frozenset({"abort", "error"})  # finish reasons that are no ends of an answer: E-11
_ERROR_GAVE_UP = b'{"message":"gave up"}'
_ERROR_UNREADABLE = b'{"message":"unreadable"}'


class FunctionDelta(Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class ToolDelta(Struct, gc=False):
    index: int | None = None
    id: str | None = None
    function: FunctionDelta | None = None


class Delta(Struct, gc=False):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolDelta] | None = None
    refusal: str | None = None

    @property
    def says(self) -> bool:
        return bool(self.content or self.reasoning or self.reasoning_content or self.tool_calls or self.refusal)


class Logprobs(Struct, gc=False):
    content: list[Any] | None = None  # one for each token; the same in every dialect that has them


class Choice(Struct, gc=False):
    delta: Delta | None = None
    logprobs: Logprobs | None = None
    index: int = 0
    finish_reason: str | None = None
    stop_reason: Any = None  # the engine's: the stop string that was met, or a token id


_NO_USAGE = Raw()


class Chunk(Struct, gc=False):
    choices: list[Choice] = []
    usage: Raw = _NO_USAGE
    error: Any = None


class Usage(Struct, frozen=True, gc=False):
    """Tokens of one request. Estimated: the engine did not come to say, so its events were counted."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0  # of the prompt, read from the cache
    created_tokens: int = 0  # of the prompt, written to the cache
    reasoning_tokens: int = 0  # of the completion
    estimated: bool = False


class _PromptDetails(Struct, gc=False):
    cached_tokens: int | None = None
    created_cache_tokens: int | None = None


class _CompletionDetails(Struct, gc=False):
    reasoning_tokens: int | None = None


class _WireUsage(Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None


class Translator(Protocol):
    """Chat events in, the bytes of another dialect's events out. One serves one answer.

    The head of the answer (its start events) goes out with the first chunk, or with a keep-alive before it.
    """

    def feed(self, chunk: Chunk) -> bytes:
        """The events that a chunk makes; may be none."""

    def end(self, usage: Usage) -> bytes:
        """The last events of an answer that ended cleanly, with its final usage."""

    def keepalive(self) -> bytes:
        """An event that clients count as life and that changes nothing (K-03, K-04)."""

    def error(self, error: CortexError) -> bytes:
        """The last event of an answer that failed."""


decode_chunk = msgspec.json.Decoder(Chunk).decode
_decode_usage = msgspec.json.Decoder(_WireUsage).decode  # missing and null are not of its shape


def read_usage(raw: Raw | bytes) -> Usage | None:
    """What `usage` of an answer or a chunk says; None where it says nothing readable."""
    try:
        wire = _decode_usage(raw)
    except NOT_JSON:
        return None
    prompt = wire.prompt_tokens_details or _PromptDetails()
    completion = wire.completion_tokens_details or _CompletionDetails()
    return Usage(
        max(0, wire.prompt_tokens or 0),
        max(0, wire.completion_tokens or 0),
        max(0, prompt.cached_tokens or 0),
        max(0, prompt.created_cache_tokens or 0),
        max(0, completion.reasoning_tokens or 0),
    )


class Translation:
    """Bytes of a chat stream in, at any split; bytes of the client's dialect out, whole events only.

    What it learns on the way stands in its attributes, as with the gateway's tap, so that the two are interchangeable:
    `content` (a first token has passed), `done` (the answer ended cleanly and its last events were given), `error` (the
    value of `error` in the stream, as JSON; nothing more is given), `finish_reason`, and `usage`.
    """

    __slots__ = ("_decoder", "_events", "_usage", "content", "done", "error", "finish_reason", "translator")

    def __init__(self, translator: Translator) -> None:
        self.translator = translator
        self.content = False
        self.done = False
        self.error: bytes | None = None
        self.finish_reason = ""
        self._decoder = SseDecoder()
        self._events = 0
        self._usage = Raw()

    def feed(self, data: bytes) -> bytes:
        """The bytes for the client, which may be none, or many events in one piece."""
        if data[:6] == b"data: " and data[-2:] == b"\n\n" and not self._decoder.rest:
            blocks = data[6:-2].split(b"\n\ndata: ")
            if data.count(b"\n") == 2 * len(blocks) and b"\r" not in data:  # whole events of one line: nearly always
                return b"".join([self._event(block) for block in blocks]) if len(blocks) > 1 else self._event(blocks[0])
        try:
            events = self._decoder.feed(data)
        except EventTooLarge:
            self.error = _ERROR_UNREADABLE
            return b""
        return b"".join([self._event(event.data) for event in events])

    def end(self) -> bytes:
        """The upstream ended. An answer that had finished ends cleanly also without the terminal event (S-14)."""
        out = b"".join([self._event(event.data) for event in self._decoder.end()])
        return out + self._finish()

    @property
    def usage(self) -> Usage | None:
        return read_usage(self._usage)

    def counted(self) -> Usage:
        """What the engine said, else an estimate: it sends an event a token, or fewer."""
        return self.usage or Usage(completion_tokens=self._events if self.content else 0, estimated=True)

    def _event(self, data: bytes) -> bytes:
        if self.done or self.error is not None:
            return b""
        if data == b"[DONE]":
            return self._finish()
        try:
            chunk = decode_chunk(data)
        except NOT_JSON:
            self.error = _ERROR_UNREADABLE
            return b""
        if chunk.error is not None:
            self.error = encode(chunk.error)
            return b""
        if chunk.usage is not _NO_USAGE:
            self._usage = chunk.usage
        self._events += 1
        for choice in chunk.choices:
            if choice.finish_reason and not choice.index:
                if choice.finish_reason in GAVE_UP:
                    self.error = _ERROR_GAVE_UP
                    return b""
                self.finish_reason = choice.finish_reason
            if not self.content and choice.delta is not None:
                self.content = choice.delta.says
        return self.translator.feed(chunk)

    def _finish(self) -> bytes:
        if self.done or self.error is not None or not self.finish_reason:
            return b""
        self.done = True
        return self.translator.end(self.counted())

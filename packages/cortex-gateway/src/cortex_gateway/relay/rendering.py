"""How an engine's answer becomes this client's: the same bytes, the same with splices, or another dialect.

One `Rendering` serves one answer. A stream goes through its `tap`, which gives whole events and takes note of usage,
errors and the end.
"""

from __future__ import annotations

import time
from typing import Protocol

import msgspec
from msgspec import Raw

from cortex_core.dialects.body import NOT_JSON, encode
from cortex_core.errors import CortexError, Dialect, render_event
from cortex_core.translate import chat, messages, responses
from cortex_core.translate.chat_events import Translation, Translator
from cortex_gateway.policy.body import Engines, Form, Json, Wanted
from cortex_gateway.policy.usage import StreamTap, Usage

_COMMENT = b": keep-alive\n\n"
EVENT_EVERY = 4
"""Of so many keep-alives of a chat stream one is an event: some clients count nothing else."""
DELTA_EVERY = 14
"""Of so many keep-alives of a Messages stream one is a delta, 210 s into a silence: Claude Code counts nothing else,
and gives up at 300 s. The others are pings, for whatever stands between."""

_values = msgspec.json.Decoder(dict[str, Raw]).decode


class Tap(Protocol):
    """What a stream goes through."""

    content: bool
    done: bool
    error: bytes | None
    finish_reason: str

    def feed(self, data: bytes, /) -> bytes: ...

    def end(self) -> bytes: ...


class Rendering(Protocol):
    @property
    def tap(self) -> Tap: ...

    def usage(self) -> Usage:
        """What the stream has taken so far."""

    def whole(self, body: bytes) -> bytes:
        """An answer that is no stream. Raises CortexError, upstream_failed."""

    def keep_alive(self, count: int) -> bytes:
        """What is said for the `count`-th time (from 1) in one silence."""

    def failed(self, error: CortexError) -> bytes:
        """The last event of a stream that failed."""


def rendering(wanted: Wanted, dialect: Dialect, request_id: str) -> Rendering:
    """Of the answer to one request."""
    match wanted.answer:
        case Engines():
            return Same(wanted.answer, dialect, request_id)
        case Json():
            return Renamed(wanted.answer, dialect, request_id)
        case Form():
            return Formed(wanted.answer, wanted.stream, dialect, request_id)
        case messages.Context() as context:
            return Messages(context, f"msg_{request_id.removeprefix('req_')}", wanted.prompt_tokens, request_id)
        case responses.Context() as context:
            return Responses(context, f"resp_{request_id.removeprefix('req_')}")


_REASONING = b'"reasoning"'


class _SplicedTap(StreamTap):
    """Splices every event, or, with `at_need`, those that show reasoning: whatever events arrive together."""

    __slots__ = ("_at_need", "_stream")

    def __init__(self, answer: Engines) -> None:
        super().__init__(strip_usage=answer.strip_usage)
        self._at_need = not answer.spliced
        self._stream = chat.ChatStream(answer.context, answer.model)

    def feed(self, chunk: bytes) -> bytes:
        events = super().feed(chunk)
        if not self._at_need:
            return self._stream.feed(events)
        found = events.find(_REASONING)
        if found < 0:
            return events
        pieces: list[bytes] = []
        at = 0
        while found >= 0:
            before, end = events.rfind(b"\n\n", at, found), events.index(b"\n\n", found) + 2
            start = at if before < 0 else before + 2
            pieces += events[at:start], self._stream.feed(events[start:end])
            at, found = end, events.find(_REASONING, end)
        return b"".join((*pieces, events[at:]))


_NO_TAP = StreamTap()  # of an answer that is no stream


class Same:
    """Chat completions and completions."""

    def __init__(self, answer: Engines, dialect: Dialect, request_id: str) -> None:
        self.tap: StreamTap = _SplicedTap(answer) if answer.context.stream else _NO_TAP
        self._answer = answer
        self._dialect = dialect
        self._request_id = request_id

    def usage(self) -> Usage:
        return self.tap.counted()

    def whole(self, body: bytes) -> bytes:
        if self._answer.spliced or b'"reasoning"' in body:
            return chat.response(body, self._answer.context)
        return body

    def keep_alive(self, count: int) -> bytes:
        return _COMMENT if count % EVENT_EVERY else self._nothing_new()

    def failed(self, error: CortexError) -> bytes:
        return render_event(error, self._dialect, self._request_id)

    def _nothing_new(self) -> bytes:
        """An event that adds nothing, with the id that the engine makes of our request id."""
        choice: dict[str, object] = {"index": 0, "finish_reason": None}
        if self._dialect is Dialect.OPENAI_CHAT:
            kind, prefix = "chat.completion.chunk", "chatcmpl-"
            choice["delta"] = {}
        else:
            kind, prefix = "text_completion", "cmpl-"
            choice["text"] = ""
        chunk = {"id": prefix + self._request_id, "object": kind, "created": int(time.time())}
        return b"data: " + encode({**chunk, "model": self._answer.context.model, "choices": [choice]}) + b"\n\n"


class Renamed(Same):
    """A JSON object of the engine's own, with the model's name as it was asked for."""

    def __init__(self, answer: Json, dialect: Dialect, request_id: str) -> None:
        super().__init__(Engines(chat.ChatContext(model=answer.model), answer.model), dialect, request_id)
        self._model = answer.model

    def whole(self, body: bytes) -> bytes:
        if not self._model:
            return body
        try:
            values = _values(body)
        except NOT_JSON:
            raise CortexError("upstream_failed", "the engine's answer could not be read") from None
        if "model" in values:
            values["model"] = Raw(encode(self._model))
        return encode(values)


class Formed(Same):
    """The answer to a form: what is text stays what it is."""

    def __init__(self, answer: Form, stream: bool, dialect: Dialect, request_id: str) -> None:
        context = chat.ChatContext(model=answer.model, stream=stream and bool(answer.model))
        super().__init__(Engines(context, answer.model, spliced=bool(answer.model)), dialect, request_id)

    def whole(self, body: bytes) -> bytes:
        return body


class _Translated:
    """Another dialect than the engine's."""

    def __init__(self, translator: Translator) -> None:
        self.tap = Translation(translator)

    def usage(self) -> Usage:
        counted = self.tap.counted()
        return Usage(
            counted.prompt_tokens, counted.cached_tokens, counted.completion_tokens, estimated=counted.estimated
        )

    def failed(self, error: CortexError) -> bytes:
        return self.tap.translator.error(error)


class Messages(_Translated):
    def __init__(self, context: messages.Context, message_id: str, prompt_tokens: int, request_id: str) -> None:
        super().__init__(messages.MessagesStream(context, message_id, prompt_tokens))
        self._context = context
        self._message_id = message_id
        self._request_id = request_id

    def whole(self, body: bytes) -> bytes:
        return messages.response(body, self._context, self._message_id)

    def keep_alive(self, count: int) -> bytes:
        """Before the first word nothing but deltas: the client has a wait behind it already (K-03, K-04)."""
        return messages.PING if self.tap.content and count % DELTA_EVERY else self.tap.translator.keepalive()

    def failed(self, error: CortexError) -> bytes:
        return render_event(error, Dialect.ANTHROPIC_MESSAGES, self._request_id)


class Responses(_Translated):
    def __init__(self, context: responses.Context, response_id: str) -> None:
        self._context = context
        self._response_id = response_id
        self._created = int(time.time())
        super().__init__(responses.ResponsesStream(context, response_id, self._created))

    def whole(self, body: bytes) -> bytes:
        return responses.response(body, self._context, self._response_id, self._created)

    def keep_alive(self, _: int) -> bytes:
        return self.tap.translator.keepalive()

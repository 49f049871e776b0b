"""A chat stream as a Responses stream (rules R-08, R-09, E-10).

Clients take one open item at a time. What the engine sends may interleave (the arguments of two calls, text while a
call is open), so items form a line: only its head is open and shows what comes; what belongs to a later item waits in
it. The head closes when another item stands behind it and it is whole; all close at the end, but for a truncated call:
agents run a call when its item is done, so that one never is (C-11).
"""

from __future__ import annotations

from typing import Any

from cortex_core.dialects.body import encode
from cortex_core.errors import CortexError
from cortex_core.translate.chat_events import Chunk, Delta, Logprobs, ToolDelta, Usage
from cortex_core.translate.responses.frame import Frame, failure
from cortex_core.translate.responses.output import Call, Item, Message, Thought
from cortex_core.translate.responses.request import Context

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


class ResponsesStream:
    """Translates one answer. Items' ids derive from `response_id`, ours (`resp_...`); `created` is in Unix seconds."""

    __slots__ = ("_at", "_call_ids", "_calls", "_context", "_done", "_finish", "_frame", "_line", "_open", "_opened",
                 "_sequence", "_started", "_suffix",
                 "response")  # fmt: skip

    def __init__(self, context: Context, response_id: str, created: int) -> None:
        self._context = context
        self._frame = Frame(context, response_id, created)
        self._suffix = response_id.removeprefix("resp_")
        self._sequence = 0
        self._started = False
        self._line: list[Item] = []
        self._at = 0  # the head of the line
        self._open: Item | None = None  # the head, when it is the last and shows what comes: the fast path
        self._opened = 0  # items so far: the next one's output_index
        self._done: list[dict[str, Any]] = []  # items, as clients saw them
        self._calls: dict[int | str, Call] = {}
        self.response: dict[str, Any] = {}  # once the answer has ended: what its last event carries
        self._call_ids: set[str] = set()  # of calls that were opened
        self._finish = ""

    def feed(self, chunk: Chunk) -> bytes:
        """The events that a chunk makes."""
        if self.response:
            return b""
        out: list[bytes] = [] if self._started else self._start()
        for choice in chunk.choices:
            if choice.index:
                continue
            delta, item = choice.delta, self._open
            if delta is not None:
                if type(item) is Message and delta.content and _only_content(delta):
                    item.pieces.append(delta.content)
                    out.append(self._delta(item, delta.content))
                else:
                    self._said(delta, out)
                if self._context.logprobs and delta.content and choice.logprobs is not None:
                    self._weigh(choice.logprobs)
            if choice.finish_reason:
                self._finish = choice.finish_reason
        return b"".join(out)

    def keepalive(self) -> bytes:
        """`response.in_progress`, again: the only event that says nothing and counts as life (K-03, K-04)."""
        if self.response:
            return b""
        return b"".join([self._progress()] if self._started else self._start())

    def end(self, usage: Usage) -> bytes:
        """The last events of an answer that ended cleanly."""
        if self.response:
            return b""
        out: list[bytes] = [] if self._started else self._start()
        reason = _INCOMPLETE.get(self._finish)
        if not self._line:
            self._line.append(Message())
        last_call = next((item for item in reversed(self._line) if isinstance(item, Call)), None)
        for item in self._line[self._at :]:
            if isinstance(item, Call):
                if item.arguments is None or (item is last_call and self._finish == "length"):
                    reason = reason or "max_output_tokens"
                    continue
            elif not item.ready and len(self._line) > 1:
                continue
            self._show(item, out)
            cut = item is self._line[-1] and self._finish in _INCOMPLETE and not isinstance(item, Call)
            self._close(item, "incomplete" if cut else "completed", out)
        status = "incomplete" if reason else "completed"
        self.response = self._frame.response(status, self._done, usage=usage, incomplete=reason)
        out.append(self._event(f"response.{status}", {"response": self.response}))
        return b"".join(out)

    def error(self, error: CortexError) -> bytes:
        """The last event of an answer that failed: the whole response, with what of it can be kept."""
        if self.response:
            return b""
        out: list[bytes] = [] if self._started else self._start()
        output = list(self._done)
        head = self._line[self._at] if self._at < len(self._line) else None
        if head is not None and head.open and not isinstance(head, Call):
            output.append(head.shape("incomplete"))
        self.response = self._frame.response("failed", output, error=failure(error))
        out.append(self._event("response.failed", {"response": self.response}))
        return b"".join(out)

    def _start(self) -> list[bytes]:
        self._started = True
        created = self._event("response.created", {"response": self._frame.response("in_progress", [])})
        return [created, self._progress()]

    def _progress(self) -> bytes:
        return self._event("response.in_progress", {"response": self._frame.response("in_progress", self._done)})

    def _event(self, kind: str, fields: dict[str, Any]) -> bytes:
        data = encode({"type": kind, "sequence_number": self._sequence, **fields})
        self._sequence += 1
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)

    def _said(self, delta: Delta, out: list[bytes]) -> None:
        thought = delta.reasoning or delta.reasoning_content
        if thought:
            self._say(Thought, thought, out)
        if delta.content:
            self._say(Message, delta.content, out)
        if delta.refusal:
            self._say(Message, delta.refusal, out)
        for position, call in enumerate(delta.tool_calls or ()):
            self._call(call, position, out)

    def _weigh(self, logprobs: Logprobs) -> None:
        """Clients find them in the item when it is done; a delta has none, so that it stays cheap."""
        message = next((item for item in reversed(self._line) if isinstance(item, Message)), None)
        if message is not None:
            message.logprobs += logprobs.content or []

    def _say(self, kind: type[Thought | Message], said: str, out: list[bytes]) -> None:
        """Text goes to the last item, if it is of its kind; else to a new one behind it."""
        item = self._open
        if type(item) is kind:
            item.pieces.append(said)
            out.append(self._delta(item, said))
            return
        item = self._line[-1] if self._at < len(self._line) else None
        if type(item) is not kind:
            item = Thought(sealed=self._context.encrypted) if kind is Thought else Message()
            self._line.append(item)
        item.add(said)
        self._advance(out)

    def _call(self, delta: ToolDelta, position: int, out: list[bytes]) -> None:
        """A piece of a call: by its index, else its id, else its place."""
        key: int | str = delta.index if delta.index is not None else delta.id or -1 - position
        function = delta.function
        name = (function.name if function is not None else None) or ""
        arguments = (function.arguments if function is not None else None) or ""
        call = self._calls.get(key)
        if call is not None and call is self._open and not name:
            if arguments:
                call.pieces.append(arguments)
                out.append(self._delta(call, arguments))
            return
        if call is None or (delta.id and name and call.call_id and delta.id != call.call_id and call.whole):
            call = self._calls[key] = Call()
            self._line.append(call)
        call.call_id = call.call_id or delta.id or ""
        if name and name != call.name and not call.text:
            call.name += name
        if arguments:
            call.add(arguments)
        self._advance(out)

    def _advance(self, out: list[bytes]) -> None:
        """Opens, shows and closes as far as the line allows."""
        line = self._line
        while self._at < len(line):
            item = line[self._at]
            last = self._at + 1 == len(line)
            if item.open or item.ready:
                self._show(item, out)
                if last or not item.whole:
                    break
                self._close(item, "completed", out)
            elif last or isinstance(item, Call):
                break
            self._at += 1  # closed, or white space before something else
        head = line[self._at] if self._at + 1 == len(line) else None
        self._open = head if head is not None and head.delta_head else None

    def _show(self, item: Item, out: list[bytes]) -> None:
        """Opens it, and shows what waits in it."""
        if not item.open:
            if isinstance(item, Call):
                self._name(item)
            item.id = f"{item.id_prefix}{self._suffix}_{self._opened}"
            for kind, fields in item.opening():
                out.append(self._event(kind, {"output_index": self._opened, **fields}))
            self._opened += 1
        if not item.waiting or item.delta is None:
            return
        if not item.delta_head:
            kind, fields = item.delta
            fields = {"type": kind, "item_id": item.id, "output_index": self._opened - 1, **fields}
            item.delta_head = b'event: %b\ndata: %b,"sequence_number":' % (kind.encode(), encode(fields)[:-1])
        out.extend([self._delta(item, said) for said in item.waiting])
        item.waiting.clear()

    def _name(self, call: Call) -> None:
        """What the client calls it, and an id that no other call of this answer has."""
        call.tool = self._context.tools.called(call.name)
        wanted = call.call_id or f"call_{self._suffix}_{self._opened}"
        call.call_id = wanted if wanted not in self._call_ids else f"{wanted}_{self._opened}"
        self._call_ids.add(call.call_id)

    def _delta(self, item: Item, said: str) -> bytes:
        self._sequence += 1
        return item.delta_head + b"%d" % (self._sequence - 1) + b',"delta":' + encode(said) + b"}\n\n"

    def _close(self, item: Item, status: str, out: list[bytes]) -> None:
        for kind, fields in item.closing(status):
            out.append(self._event(kind, {"output_index": self._opened - 1, **fields}))
            if "item" in fields:
                self._done.append(fields["item"])


def _only_content(delta: Delta) -> bool:
    return not (delta.tool_calls or delta.reasoning or delta.reasoning_content or delta.refusal)

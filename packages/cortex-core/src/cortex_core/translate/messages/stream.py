"""A chat stream as a Messages stream (protocol S-01 to S-17).

Clients take one open block at a time, never reopened. What the engine sends may interleave (the arguments of two calls,
text while a call is open), so blocks form a line: only its head is open and passes on what comes; what belongs to a
later block waits in it. The head closes as soon as it can: text and thinking at once, a call when its arguments are a
whole object, and everything at the end.
"""

from __future__ import annotations

from typing import Any, Final

from cortex_core.dialects.body import encode
from cortex_core.errors import CortexError, Dialect, render_event
from cortex_core.translate import opaque
from cortex_core.translate.calls import as_object, is_object
from cortex_core.translate.chat_events import Chunk, Delta, ToolDelta, Usage, read_usage
from cortex_core.translate.messages.ending import stop, stop_details, tokens
from cortex_core.translate.messages.request import Context
from cortex_core.translate.messages.response import synthetic_id

PING: Final = b'event: ping\ndata: {"type":"ping"}\n\n'

_TEXT, _THINKING, _TOOL = "text", "thinking", "tool_use"
_START = {
    _TEXT: b'{"type":"text","text":""}',
    _THINKING: b'{"type":"thinking","thinking":"","signature":""}',
}
_DELTA = {
    _TEXT: b'{"type":"text_delta","text":',
    _THINKING: b'{"type":"thinking_delta","thinking":',
    _TOOL: b'{"type":"input_json_delta","partial_json":',
}


class _Block:
    """One content block: waiting, open or closed."""

    __slots__ = ("head", "id", "index", "kind", "name", "open", "passes", "said", "waiting")

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.index = -1  # until it was opened
        self.open = False
        self.head = b""  # of each of its deltas
        self.waiting: list[str] = []  # said, not passed on
        self.said: list[str] = []  # of a call, and of thinking that is omitted: everything
        self.passes = kind != _TOOL  # what is said is passed on as it comes; of a call once it begins as an object
        self.id = ""  # of a call
        self.name = ""

    @property
    def whole(self) -> str:
        return "".join(self.said)


class MessagesStream:
    """Translates one answer. `input_tokens` is an estimate for a head that goes out before the engine's first word."""

    __slots__ = ("_at", "_calls", "_context", "_finish", "_id", "_input_tokens", "_line", "_met", "_open",
                 "_opened", "_reasoned", "_refused", "_started")  # fmt: skip

    def __init__(self, context: Context, message_id: str, input_tokens: int = 0) -> None:
        self._context = context
        self._id = message_id
        self._input_tokens = input_tokens
        self._started = False
        self._line: list[_Block] = []
        self._at = 0  # the head of the line
        self._open: _Block | None = None  # the head, when it is open and the last: the fast path
        self._calls: dict[int | str, _Block] = {}
        self._finish = ""
        self._met: Any = None
        self._refused = False
        self._reasoned = False
        self._opened = 0  # blocks so far: the next one's index

    def feed(self, chunk: Chunk) -> bytes:
        """The events that a chunk makes."""
        out: list[bytes] = []
        if not self._started:
            self._start(read_usage(chunk.usage), out)
        for choice in chunk.choices:
            if choice.index:
                continue
            delta = choice.delta
            if delta is not None:
                block = self._open
                if block is not None and block.kind == _TEXT and delta.content and _only_content(delta):
                    out.append(block.head + encode(delta.content) + b"}}\n\n")
                else:
                    self._said(delta, out)
            if choice.finish_reason:
                self._finish, self._met = choice.finish_reason, choice.stop_reason
        return b"".join(out)

    def keepalive(self) -> bytes:
        """An empty delta of the open block. Before the first word: the head, and a text block for it to come (K-03)."""
        out: list[bytes] = []
        if not self._started:
            self._start(None, out)
        if self._at >= len(self._line):
            self._line.append(_Block(_TEXT))
        block = self._line[self._at]
        if not block.open:
            if not self._may_open(block):
                return b"".join(out) or PING
            self._open_block(block, out)
        out.append(block.head + b'""}}\n\n')
        return b"".join(out)

    def end(self, usage: Usage) -> bytes:
        """The last events of an answer that ended cleanly."""
        out: list[bytes] = []
        if not self._started:
            self._start(usage, out)
        if not self._line and not self._context.prewarm:
            self._line.append(_Block(_TEXT))
        while self._at < len(self._line):
            block = self._line[self._at]
            if not block.open and (block.kind != _TOOL or self._runnable(block)):
                self._open_block(block, out)
            self._close(block, out)
        calls = [block for block in self._line if block.kind == _TOOL]
        complete = sum(bool(call.name) and as_object(call.whole) is not None for call in calls)
        finish = "content_filter" if self._refused else self._finish
        reason, sequence = stop(
            self._context, finish, self._met, usage, calls=complete, broken=len(calls) - complete
        )  # fmt: skip
        delta = {"stop_reason": reason, "stop_sequence": sequence, "stop_details": stop_details(reason)}
        last = {"type": "message_delta", "delta": delta, "usage": tokens(usage, prewarm=self._context.prewarm)}
        out.append(b"event: message_delta\ndata: " + encode(last) + b"\n\n")
        out.append(b'event: message_stop\ndata: {"type":"message_stop"}\n\n')
        return b"".join(out)

    def error(self, error: CortexError, request_id: str = "") -> bytes:
        """The last event of an answer that failed; no message_stop follows."""
        return render_event(error, Dialect.ANTHROPIC_MESSAGES, request_id)

    def _runnable(self, call: _Block) -> bool:
        """Whether a call that nobody has seen yet may be shown: a truncated one must not be run (C-11)."""
        return self._finish != "length" and bool(call.name) and as_object(call.whole) is not None

    def _start(self, usage: Usage | None, out: list[bytes]) -> None:
        self._started = True
        known = usage or Usage(prompt_tokens=self._input_tokens)
        message: dict[str, Any] = {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._context.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "stop_details": None,
            "usage": tokens(known, prewarm=self._context.prewarm),
        }
        out.append(
            b"event: message_start\ndata: " + encode({"type": "message_start", "message": message}) + b"\n\n"
        )  # fmt: skip

    def _said(self, delta: Delta, out: list[bytes]) -> None:
        """Whatever one delta says, in the order of S-07."""
        context = self._context
        if context.prewarm:
            return
        reasoning = delta.reasoning or delta.reasoning_content
        if reasoning:
            self._reasoned = True
            if context.thinking != "hidden":
                self._say(self._last(_THINKING), reasoning, out)
        if content := self._text(delta.content):
            self._say(self._last(_TEXT), content, out)
        if delta.refusal:
            self._refused = True
            self._say(self._last(_TEXT), delta.refusal, out)
        for position, call in enumerate(delta.tool_calls or ()):
            self._call(call, position, out)

    def _text(self, content: str | None) -> str | None:
        """Content, without the blank lines that separated it from thinking (B-07)."""
        if content and self._reasoned and (not self._line or self._line[-1].kind != _TEXT):
            return content.lstrip("\n")
        return content

    def _last(self, kind: str) -> _Block:
        """The block that text or thinking goes to: the last one, or a new one behind it."""
        if self._line and self._line[-1].kind == kind and self._at < len(self._line):
            return self._line[-1]
        block = _Block(kind)
        block.passes = kind == _TEXT or self._context.thinking == "shown"
        self._line.append(block)
        return block

    def _call(self, call: ToolDelta, position: int, out: list[bytes]) -> None:
        """A piece of a call: by its index, else its id, else its place (S-08)."""
        key: int | str = call.index if call.index is not None else call.id or -1 - position
        function = call.function
        name = function.name or "" if function is not None else ""
        arguments = function.arguments or "" if function is not None else ""
        block = self._calls.get(key)
        if block is None or (call.id and name and block.id and call.id != block.id and is_object(block.whole)):
            block = self._calls[key] = _Block(_TOOL)
            self._line.append(block)
        block.id = block.id or call.id or ""
        if name and name != block.name and not block.said and not block.open:
            block.name += name
        self._say(block, arguments, out)

    def _say(self, block: _Block, said: str, out: list[bytes]) -> None:
        if block is self._open and block.passes:
            if said:
                out.append(block.head + encode(said) + b"}}\n\n")
                if block.kind == _TOOL:
                    block.said.append(said)
            return
        if said:
            self._keep(block, said)
        self._advance(out)
        last = self._line[-1]
        self._open = last if last.open and self._at + 1 == len(self._line) else None

    def _keep(self, block: _Block, said: str) -> None:
        """Puts down what is said until it can be passed on."""
        if block.passes and block.kind != _TOOL:
            block.waiting.append(said)
            return
        block.said.append(said)
        if block.kind == _TOOL and (block.open or block.index < 0):  # behind its end it can only become unsound
            block.waiting.append(said)
            block.passes = block.passes or block.whole.lstrip().startswith("{")

    def _advance(self, out: list[bytes]) -> None:
        """Opens and closes as far as the line allows, and passes on what the head has waiting."""
        while self._at < len(self._line):
            block = self._line[self._at]
            if not block.open:
                if not self._may_open(block):
                    return
                self._open_block(block, out)
            self._pass_on(block, out)
            if self._at + 1 == len(self._line) or (block.kind == _TOOL and not is_object(block.whole)):
                return
            self._close(block, out)

    def _may_open(self, block: _Block) -> bool:
        """A call's name may come in pieces: it is whole when arguments begin, or another block."""
        if block.kind != _TOOL:
            return True
        return bool(block.name) and (bool(block.said) or self._at + 1 < len(self._line))

    def _open_block(self, block: _Block, out: list[bytes]) -> None:
        block.open = True
        block.index = self._opened
        self._opened += 1
        if block.kind == _TOOL:
            if not block.id or any(other.id == block.id for other in self._line[: self._at]):
                block.id = synthetic_id(self._id, block.index)
            start = b'{"type":"tool_use","id":%b,"name":%b,"input":{}}' % (encode(block.id), encode(block.name))
        else:
            start = _START[block.kind]
        block.head = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":%b' % (
            block.index,
            _DELTA[block.kind],
        )
        out.append(
            b'event: content_block_start\ndata: {"type":"content_block_start","index":%d,"content_block":%b}\n\n'
            % (block.index, start)
        )

    def _pass_on(self, block: _Block, out: list[bytes]) -> None:
        if block.passes and block.waiting:
            out.extend(block.head + encode(said) + b"}}\n\n" for said in block.waiting)
            block.waiting.clear()

    def _close(self, block: _Block, out: list[bytes]) -> None:
        """Ends the head of the line. A call without a name was never opened, and never is."""
        self._at += 1
        self._open = None
        if not block.open:
            return
        self._pass_on(block, out)
        if block.kind == _TOOL and not block.passes:
            whole = as_object(block.whole)
            if whole is not None and whole != "{}":
                out.append(block.head + encode(whole) + b"}}\n\n")
        if block.kind == _THINKING:
            signature = opaque.SHOWN if block.passes else opaque.seal(block.whole)
            out.append(
                b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":'
                b'{"type":"signature_delta","signature":%b}}\n\n' % (block.index, encode(signature))
            )
        block.open = False
        out.append(
            b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n' % block.index
        )  # fmt: skip


def _only_content(delta: Delta) -> bool:
    return not (delta.tool_calls or delta.reasoning or delta.reasoning_content or delta.refusal)

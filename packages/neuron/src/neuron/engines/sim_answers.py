"""What the simulated engine answers: the words, and their form in OpenAI's two completion calls."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from cortex_core.http import EventStream, Send, respond_json
from neuron.engines.base import Finished
from neuron.engines.script import Delta, Turn, message

DEFAULT_TOKENS = 16
WORDS = ("alder", "birch", "cedar", "elder", "fir", "hazel", "larch", "maple", "oak", "pine", "rowan", "willow")
MARK = (b"x-cortex-simulated", b"true")
FINGERPRINT = "simulated"
SCRIPTED_ERROR = {"error": {"message": "the script has an error here", "type": "InternalServerError", "code": 500}}

Pause = Callable[[int, list[str]], Awaitable[None]]


class Message(msgspec.Struct):
    role: str = ""
    content: Any = None


class Ask(msgspec.Struct):
    """What the simulation reads of a body; everything else is ignored."""

    model: str = ""
    messages: list[Message] | None = None
    prompt: Any = None
    stream: bool = False
    stream_options: dict[str, Any] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None

    @property
    def count(self) -> int:
        """Tokens of the answer."""
        return self.max_completion_tokens or self.max_tokens or DEFAULT_TOKENS

    def call(self) -> dict[str, str] | None:
        """The tool call to answer with: of the tool that is named, else of the first; none once a tool has answered."""
        if not self.tools or self.tool_choice == "none" or (self.messages and self.messages[-1].role == "tool"):
            return None
        functions = [tool.get("function") or {} for tool in self.tools]
        wish = (self.tool_choice.get("function") or {}).get("name") if isinstance(self.tool_choice, dict) else None
        function = next((one for one in functions if wish and one.get("name") == wish), functions[0])
        required = (function.get("parameters") or {}).get("required") or []
        arguments = {str(name): WORDS[index % len(WORDS)] for index, name in enumerate(required)}
        return {"name": str(function.get("name", "")), "arguments": msgspec.json.encode(arguments).decode()}

    def words(self) -> list[str]:
        """The prompt's words: each is a token."""
        parts = [self.prompt] if self.messages is None else [message.content for message in self.messages]
        texts: list[str] = []
        for part in parts:
            if isinstance(part, str):
                texts.append(part)
            elif isinstance(part, list):
                texts += [str(piece.get("text", "")) if isinstance(piece, dict) else str(piece) for piece in part]
        return " ".join(texts).split()


def answer(model: str, prompt: list[str], count: int) -> list[str]:
    """The tokens of an answer: the model's name, then words drawn from the prompt's digest."""
    digest = hashlib.blake2b(" ".join([model, *prompt]).encode(), digest_size=16).digest()
    words = [WORDS[byte % len(WORDS)] for byte in digest]
    return [model, *(" " + words[index % len(words)] for index in range(count - 1))][:count]


class Run:
    """One request under way. Its pieces are a chat stream's deltas, or texts.

    Args:
        pause: what passes before a token of that index; given the prompt's words. It may not return.
        context: tokens that prompt and answer have together.
        turn: what a script has for it.
    """

    def __init__(
        self, model: str, ask: Ask, request_id: str, chat: bool, pause: Pause, context: int, turn: Turn | None = None
    ) -> None:
        self._model = model
        self._ask = ask
        self._prompt = ask.words()
        self._pause = pause
        self._request_id = request_id
        self._chat = chat
        self._done = 0
        self._outcome = "abort"
        call = ask.call() if chat else None
        self._pieces: list[Delta] | list[str]
        if turn is not None:
            self._pieces, self._reason = list(turn.deltas), turn.finish
        elif call is not None:
            self._pieces, self._reason = [{"tool_calls": [{"index": 0, **self._as_call(call)}]}], "tool_calls"
        else:
            tokens = answer(model, self._prompt, min(ask.count, context - len(self._prompt)))
            self._pieces = [{"content": token} for token in tokens] if chat else tokens
            self._reason = "length" if ask.max_tokens or ask.max_completion_tokens else "stop"

    def finished(self) -> Finished:
        return Finished(
            request_id=self._request_id,
            prompt_tokens=len(self._prompt),
            cached_tokens=0,
            completion_tokens=self._done,
            outcome=self._outcome,
        )

    def _usage(self) -> dict[str, int]:
        prompt = len(self._prompt)
        return {"prompt_tokens": prompt, "completion_tokens": self._done, "total_tokens": prompt + self._done}

    async def _next(self) -> Delta | str:
        await self._pause(self._done, self._prompt)
        piece = self._pieces[self._done]
        self._done += 1
        return piece

    async def whole(self, send: Send) -> None:
        pieces = [await self._next() for _ in self._pieces]
        await self._fall()
        if self._reason == "error":
            await respond_json(send, 500, SCRIPTED_ERROR, [MARK])
            return
        self._outcome = self._reason
        choice: dict[str, Any] = {"index": 0, "finish_reason": self._reason, "logprobs": None}
        if self._chat:
            choice["message"] = message([piece for piece in pieces if isinstance(piece, dict)])
        else:
            choice["text"] = "".join(piece for piece in pieces if isinstance(piece, str))
        await respond_json(send, 200, self._body([choice], "") | {"usage": self._usage()}, [MARK])

    async def stream(self, send: Send) -> None:
        options = self._ask.stream_options or {}
        async with EventStream(send) as stream:
            await stream.start(200, [(b"content-type", b"text/event-stream; charset=utf-8"), MARK])
            if self._chat:
                await stream.write(self._event({"role": "assistant", "content": ""}, None))
            for _ in self._pieces:
                await stream.write(self._event(await self._next(), None))
            await self._fall()
            self._outcome = self._reason
            if self._reason == "error":
                await stream.write(_data(SCRIPTED_ERROR))
            else:
                await stream.write(self._event({} if self._chat else "", self._reason))
                if options.get("include_usage"):
                    await stream.write(_data(self._body([], ".chunk") | {"usage": self._usage()}))
            await stream.end(b"data: [DONE]\n\n")

    async def _fall(self) -> None:
        """What a script has for the end of an answer."""
        if self._reason == "die":
            await self._pause(1, ["!die"])

    def _as_call(self, function: dict[str, str]) -> dict[str, Any]:
        return {"id": f"call-{self._request_id or 'sim'}", "type": "function", "function": function}

    def _event(self, what: dict[str, Any] | str, reason: str | None) -> bytes:
        key = "delta" if self._chat else "text"
        choice = {"index": 0, key: what, "finish_reason": reason, "logprobs": None}
        return _data(self._body([choice], ".chunk"))

    def _body(self, choices: list[dict[str, Any]], suffix: str) -> dict[str, Any]:
        return {
            "id": f"{'chatcmpl' if self._chat else 'cmpl'}-{self._request_id or 'sim'}",
            "object": f"chat.completion{suffix}" if self._chat else "text_completion",
            "created": 0,
            "model": self._model,
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
        }


def _data(value: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"

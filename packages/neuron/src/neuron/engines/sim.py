"""The simulated engine: no model, no weights, deterministic words. Everything it says is marked as simulated.

It serves the two completion calls of OpenAI's API on a unix socket as a real engine does, and counts tokens, at the
speed that `[engine.sim]` gives. Given tools it calls one, with words for arguments. A word of the prompt makes it
misbehave, for whoever wants to see what then happens:

    !error  answers 500          !die   the engine ends after the first token
    !hang   stops for ever after the first token, in this and every other request, and serves nothing any more
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from cortex_core.config.neuron import SimTable
from cortex_core.fleet import MEBIBYTE
from cortex_core.http import EventStream, Limits, Receive, Request, Scope, Send, Server, bind, respond, respond_json
from cortex_core.neuron_api import REQUEST_ID
from neuron.engines.base import Ended, EngineFailed, Facts, Finished, LoadSpec, Progress

PHASES = ("fork", "config", "engine", "device", "weights", "profile", "kv_cache", "warmup", "serving")
CONTEXT = 8192  # tokens, of a model without a checkpoint
KV_BYTES_PER_TOKEN = 1024
DEFAULT_TOKENS = 16
WORDS = ("alder", "birch", "cedar", "elder", "fir", "hazel", "larch", "maple", "oak", "pine", "rowan", "willow")
MARK = (b"x-cortex-simulated", b"true")
FINGERPRINT = "simulated"


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


class SimOwner:
    """Owns the simulated engines of one device. `run` serves them."""

    def __init__(self, table: SimTable) -> None:
        self._table = table
        self._group: asyncio.TaskGroup
        self._started = asyncio.Event()
        self._closed = asyncio.Event()
        self._engines: set[SimEngine] = set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as self._group:
            self._started.set()
            await self._closed.wait()

    async def load(
        self, spec: LoadSpec, on_progress: Callable[[Progress], None], on_finished: Callable[[Finished], None]
    ) -> SimEngine:
        await self._started.wait()
        if self._closed.is_set():
            raise EngineFailed("fork", "the neuron ends", "neuron")
        for phase in PHASES:
            on_progress(Progress(phase=phase))
            await asyncio.sleep(self._table.load_s / len(PHASES))
            if phase == self._table.fail_at:
                raise EngineFailed(phase, f"[engine.sim] fail_at = {phase!r}")
        engine = SimEngine(spec, self._table, on_finished)
        self._engines.add(engine)
        self._group.create_task(self._serve(engine), name=f"sim {spec.replica}")
        try:
            await engine.listening()
        except asyncio.CancelledError:
            engine.stop(Ended(clean=True))
            raise
        return engine

    async def _serve(self, engine: SimEngine) -> None:
        try:
            await engine.serve()
        finally:
            self._engines.discard(engine)

    def describe(self) -> dict[str, Any]:
        return {"engine": "sim", "simulated": True, "state": "closed" if self._closed.is_set() else "ready"}

    async def close(self, grace_s: float = 0.0) -> None:
        for engine in list(self._engines):
            await engine.close(grace_s)
        self._closed.set()


class SimEngine:
    """One simulated engine. Implements `Engine`."""

    def __init__(self, spec: LoadSpec, table: SimTable, on_finished: Callable[[Finished], None]) -> None:
        self._spec = spec
        self._table = table
        self._on_finished = on_finished
        self._end: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        self._ended: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        self._listening = asyncio.Event()
        self._server: Server | None = None
        self._active: set[Send] = set()  # of requests under way
        self._hung = False
        self._requests = 0
        self._generated = 0
        self._facts = Facts(
            context=spec.context or CONTEXT,
            kv_tokens=max(spec.context or CONTEXT, spec.kv_cache_mb * MEBIBYTE // KV_BYTES_PER_TOKEN),
            tasks=("generate",),
            simulated=True,
        )

    @property
    def socket(self) -> Path:
        return self._spec.socket

    @property
    def facts(self) -> Facts:
        return self._facts

    async def listening(self) -> None:
        await self._listening.wait()

    async def ended(self) -> Ended:
        return await asyncio.shield(self._ended)

    async def close(self, grace_s: float) -> None:
        if not self._end.done() and grace_s and self._server is not None:
            await self._server.drain(grace_s)
        self.stop(Ended(clean=True))
        await asyncio.sleep(self._table.unload_s)
        await self.ended()

    def die(self, reason: str = "killed") -> None:
        """End as a killed engine does: every connection breaks."""
        self.stop(Ended(clean=False, reason=reason))

    def hang(self) -> None:
        """Be there and do nothing, as a stopped process does."""
        self._hung = True

    def stop(self, ended: Ended) -> None:
        if not self._end.done():
            self._end.set_result(ended)

    async def serve(self) -> None:
        limits = Limits(body_timeout_s=3600, write_stall_s=3600)
        try:
            async with Server(self, listeners=[bind(f"unix:{self.socket}")], limits=limits) as self._server:
                self._listening.set()
                ended = await self._end
                for send in [] if ended.clean else list(self._active):
                    await EventStream(send).abort()  # a killed engine has no last words
        finally:
            self._server = None
        self._ended.set_result(ended)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        if self._hung:
            await asyncio.get_running_loop().create_future()
        match (request.method, request.path):
            case ("GET", "/health"):
                await respond_json(send, 200, {"simulated": True}, [MARK])
            case ("GET", "/metrics"):
                await respond(send, 200, self._metrics(), [MARK], b"text/plain; version=0.0.4")
            case ("POST", "/v1/chat/completions" | "/v1/completions"):
                await self._complete(request, send)
            case ("POST", "/tokenize"):
                await self._tokenize(request, send)
            case _:
                await self._refuse(send, 404, f"the simulated engine has no {request.method} {request.path}")

    def _metrics(self) -> bytes:
        label = f'{{model_name="{self._spec.model}"}}'
        counters = {"sim:requests_total": self._requests, "sim:generation_tokens_total": self._generated}
        return "".join(f"{name}{label} {value}\n" for name, value in counters.items()).encode()

    async def _complete(self, request: Request, send: Send) -> None:
        body = await request.body()
        try:
            ask = msgspec.json.decode(body, type=Ask)
        except msgspec.DecodeError as error:
            return await self._refuse(send, 400, str(error))
        prompt = ask.words()
        count = ask.max_completion_tokens or ask.max_tokens or DEFAULT_TOKENS
        if len(prompt) + count > self._facts.context:
            text = f"This model's maximum context length is {self._facts.context} tokens"
            return await self._refuse(send, 400, f"{text}; {len(prompt)} and {count} were asked for")
        if "!error" in prompt:
            return await self._refuse(send, 500, "the prompt asked for an error")
        chat = request.path.endswith("/chat/completions")
        run = Run(self, ask, prompt, count, request.header(REQUEST_ID) or "", chat)
        self._requests += 1
        self._active.add(send)
        try:
            await (run.stream(send) if ask.stream else run.whole(send))
        finally:
            self._active.discard(send)
            self._on_finished(run.finished())
        return None

    async def _tokenize(self, request: Request, send: Send) -> None:
        try:
            words = msgspec.json.decode(await request.body(), type=Ask).words()
        except msgspec.DecodeError as error:
            return await self._refuse(send, 400, str(error))
        tokens = list(range(len(words)))
        await respond_json(
            send, 200, {"count": len(words), "max_model_len": self._facts.context, "tokens": tokens}, [MARK]
        )
        return None

    async def pause(self, index: int, prompt: list[str]) -> None:
        """What passes before a token, and what befalls the engine after the first."""
        await asyncio.sleep(self._table.first_token_s if index == 0 else 1 / self._table.tokens_per_s)
        if index == 1 and "!die" in prompt:
            self.die("the prompt asked for it")
        if index == 1 and "!hang" in prompt:
            self.hang()
        if self._hung or self._end.done():
            await asyncio.get_running_loop().create_future()
        self._generated += 1

    async def _refuse(self, send: Send, status: int, message: str) -> None:
        kind = "BadRequestError" if status < 500 else "InternalServerError"
        await respond_json(
            send, status, {"error": {"message": message, "type": kind, "param": None, "code": status}}, [MARK]
        )

    @property
    def model(self) -> str:
        return self._spec.model


class Run:
    """One request under way."""

    def __init__(self, engine: SimEngine, ask: Ask, prompt: list[str], count: int, request_id: str, chat: bool) -> None:
        self._engine = engine
        self._ask = ask
        self._prompt = prompt
        self._call = ask.call() if chat else None
        self._tokens = answer(engine.model, prompt, count) if self._call is None else [self._call["arguments"]]
        self._request_id = request_id
        self._chat = chat
        self._done = 0
        self._outcome = "abort"
        asked = ask.max_tokens or ask.max_completion_tokens
        self._reason = "tool_calls" if self._call else "length" if asked else "stop"

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

    async def _next(self) -> str:
        await self._engine.pause(self._done, self._prompt)
        token = self._tokens[self._done]
        self._done += 1
        return token

    async def whole(self, send: Send) -> None:
        text = "".join([await self._next() for _ in self._tokens])
        self._outcome = self._reason
        choice: dict[str, Any] = {"index": 0, "finish_reason": self._reason, "logprobs": None}
        if self._call:
            choice["message"] = {"role": "assistant", "content": None, "tool_calls": [self._as_call(self._call)]}
        elif self._chat:
            choice["message"] = {"role": "assistant", "content": text}
        else:
            choice["text"] = text
        await respond_json(send, 200, self._body([choice], "") | {"usage": self._usage()}, [MARK])

    async def stream(self, send: Send) -> None:
        options = self._ask.stream_options or {}
        async with EventStream(send) as stream:
            await stream.start(200, [(b"content-type", b"text/event-stream; charset=utf-8"), MARK])
            if self._chat:
                await stream.write(self._event({"role": "assistant", "content": ""}, None))
            for _ in self._tokens:
                token = await self._next()
                if self._call:
                    await stream.write(self._event({"tool_calls": [{"index": 0, **self._as_call(self._call)}]}, None))
                else:
                    await stream.write(self._event({"content": token} if self._chat else token, None))
            self._outcome = self._reason
            await stream.write(self._event({} if self._chat else "", self._reason))
            if options.get("include_usage"):
                await stream.write(_data(self._body([], ".chunk") | {"usage": self._usage()}))
            await stream.end(b"data: [DONE]\n\n")

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
            "model": self._engine.model,
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
        }


def _data(value: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"

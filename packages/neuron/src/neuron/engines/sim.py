"""The simulated engine: no model, no weights, deterministic words. Everything it says is marked as simulated.

It serves the two completion calls of OpenAI's API on a unix socket as a real engine does, and counts tokens, at the
speed that `[engine.sim]` gives. Given tools it calls one, with words for arguments, or says what a script has for it
(`script`). It sleeps where its options say `enable_sleep_mode`, as vLLM does. A word of the prompt makes it misbehave,
for whoever wants to see what then happens:

    !error  answers 500          !die   the engine ends after the first token
    !hang   stops for ever after the first token, in this and every other request, and serves nothing any more
    !stall  likewise, but the engine answers, and goes on when this request is aborted
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from cortex_core.config.neuron import SimTable
from cortex_core.fleet import MEBIBYTE
from cortex_core.http import EventStream, Limits, Receive, Request, Scope, Send, Server, bind, respond, respond_json
from cortex_core.neuron_api import REQUEST_ID
from neuron.engines.base import (
    PHASES,
    SLEEP_OPTION,
    Ended,
    EngineFailed,
    Facts,
    Finished,
    LoadSpec,
    Progress,
)
from neuron.engines.script import Script
from neuron.engines.sim_answers import MARK, Ask, Run

CONTEXT = 8192  # tokens, of a model without a checkpoint
KV_BYTES_PER_TOKEN = 1024
WAKE_PART = {1: 0.2, 2: 0.6}  # of a load, by level


class SimOwner:
    """Owns the simulated engines of one device. `run` serves them."""

    def __init__(self, table: SimTable) -> None:
        self._table = table
        self._script = Script(table.script)
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
        engine = SimEngine(spec, self._table, on_finished, self._script)
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

    def knows(self, _architecture: str) -> bool:
        return True

    def describe(self) -> dict[str, Any]:
        return {"engine": "sim", "simulated": True, "state": "closed" if self._closed.is_set() else "ready"}

    async def close(self, grace_s: float = 0.0) -> None:
        for engine in list(self._engines):
            await engine.close(grace_s)
        self._closed.set()


class SimEngine:
    """One simulated engine. Implements `Engine`."""

    def __init__(
        self, spec: LoadSpec, table: SimTable, on_finished: Callable[[Finished], None], script: Script
    ) -> None:
        self._spec = spec
        self._table = table
        self._script = script
        self._on_finished = on_finished
        self._end: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        self._ended: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        self._listening = asyncio.Event()
        self._server: Server | None = None
        self._active: set[Send] = set()  # of requests under way
        self._hung = False
        self._stalled: set[asyncio.Task[None] | None] = set()  # requests that keep all others from going on
        self._goes = asyncio.Event()
        self._goes.set()
        self._requests = 0
        self._generated = 0
        self._facts = Facts(
            context=spec.context or CONTEXT,
            kv_tokens=max(spec.context or CONTEXT, spec.kv_cache_mb * MEBIBYTE // KV_BYTES_PER_TOKEN),
            tasks=("generate",),
            simulated=True,
            can_sleep=bool(spec.options.get(SLEEP_OPTION)),
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

    async def sleep(self, level: int) -> None:
        await self._turn_over(self._table.unload_s / level)

    async def wake(self, level: int) -> None:
        await self._turn_over(self._table.load_s * WAKE_PART[level])

    async def _turn_over(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        if self._end.done():
            raise EngineFailed("sleep", "it ended")

    async def close(self, grace_s: float) -> None:
        if not self._end.done() and grace_s and self._server is not None:
            await self._server.drain(grace_s)
        self.stop(Ended(clean=True))
        await asyncio.sleep(self._table.unload_s)
        await self.ended()

    async def kill(self) -> None:
        self.die()
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
        figures = {
            "sim:num_requests_running": len(self._active),
            "sim:requests_total": self._requests,
            "sim:generation_tokens_total": self._generated,
        }
        return "".join(f"{name}{label} {value}\n" for name, value in figures.items()).encode()

    async def _complete(self, request: Request, send: Send) -> None:
        body = await request.body()
        try:
            ask = msgspec.json.decode(body, type=Ask)
        except msgspec.DecodeError as error:
            return await self._refuse(send, 400, str(error))
        prompt = ask.words()
        context = self._facts.context
        if ask.count > context:
            text = f"max_tokens={ask.count} cannot be greater than max_model_len={context}"
            return await self._refuse(send, 400, text)
        if len(prompt) >= context:
            text = f"This model's maximum context length is {context} tokens"
            return await self._refuse(send, 400, f"{text}. However, your prompt contains {len(prompt)} input tokens")
        if "!error" in prompt:
            return await self._refuse(send, 500, "the prompt asked for an error")
        chat = request.path.endswith("/chat/completions")
        turn = self._script.next(self._spec.model) if chat and ask.tools else None
        run = Run(self._spec.model, ask, request.header(REQUEST_ID) or "", chat, self._pause, context, turn)
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

    async def _pause(self, index: int, prompt: list[str]) -> None:
        """What passes before a token, and what befalls the engine after the first."""
        await asyncio.sleep(self._table.first_token_s if index == 0 else 1 / self._table.tokens_per_s)
        if index == 1 and "!die" in prompt:
            self.die("the prompt asked for it")
        if index == 1 and "!hang" in prompt:
            self.hang()
        if index == 1 and "!stall" in prompt:
            await self._stall()
        await self._goes.wait()
        if self._hung or self._end.done():
            await asyncio.get_running_loop().create_future()
        self._generated += 1

    async def _stall(self) -> None:
        me = asyncio.current_task()
        self._stalled.add(me)
        self._goes.clear()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self._stalled.discard(me)
            if not self._stalled:
                self._goes.set()

    async def _refuse(self, send: Send, status: int, message: str) -> None:
        kind = "BadRequestError" if status < 500 else "InternalServerError"
        await respond_json(
            send, status, {"error": {"message": message, "type": kind, "param": None, "code": status}}, [MARK]
        )

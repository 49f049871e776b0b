"""Exact usage of every request, also of one cut short, which vLLM itself tells nobody.

A request is an HTTP request with our id. It may ask the engine several times (a list of prompts, several choices); each
time vLLM keeps a RequestState whose counts stay right until the last token, so those are read when everything is over.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from typing import Any

from neuron.engines.base import Finished

REQUEST_ID = b"x-cortex-request-id"
_ENGINE_REQUEST_ID = b"x-request-id"  # vLLM's, so that its log lines carry our id
_WORST = ("stop", "length", "abort", "error")  # of several generations, the later in this row names the outcome

Scope = dict[str, Any]
Receive = Callable[[], Any]
Send = Callable[[dict[str, Any]], Any]

_current: ContextVar[_Request | None] = ContextVar("request", default=None)


class _Request:
    __slots__ = ("_open", "_outcome", "_report", "request_id", "states")

    def __init__(self, request_id: str, report: Callable[[Finished], None]) -> None:
        self.request_id = request_id
        self.states: list[Any] = []
        self._report = report
        self._open = 1  # the HTTP request itself, then its generations: who is last reports
        self._outcome = 0

    def enter(self) -> None:
        self._open += 1

    def leave(self, outcome: str) -> None:
        self._outcome = max(self._outcome, _WORST.index(outcome))
        self._open -= 1
        if self._open == 0:
            self._report(self._sum())

    def _sum(self) -> Finished:
        prompts: dict[str, tuple[int, int]] = {}  # choices of one prompt share it: count it once
        completion = 0
        for state in self.states:
            _, cached = prompts.get(state.external_req_id, (0, 0))
            prompts[state.external_req_id] = (state.prompt_len, max(cached, state.num_cached_tokens))
            if state.detokenizer is not None:
                completion += state.detokenizer.num_output_tokens()
        return Finished(
            request_id=self.request_id,
            prompt_tokens=sum(prompt for prompt, _ in prompts.values()),
            cached_tokens=sum(cached for _, cached in prompts.values()),
            completion_tokens=completion,
            outcome=_WORST[self._outcome],
        )


def meter_app(app: Any, report: Callable[[Finished], None]) -> Any:
    """An ASGI application that is `app`, with a `Finished` told for each request that carries our id."""

    async def metered(scope: Scope, receive: Receive, send: Send) -> None:
        request_id = _id_of(scope)
        if request_id is None:
            await app(scope, receive, send)
            return
        headers = [(name, value) for name, value in scope["headers"] if name != _ENGINE_REQUEST_ID]
        scope = {**scope, "headers": [*headers, (_ENGINE_REQUEST_ID, request_id.encode())]}
        request = _Request(request_id, report)
        outcome = "error"
        complete = False

        async def watched_receive() -> Any:
            nonlocal outcome
            message = await receive()
            if message["type"] == "http.disconnect" and not complete:
                outcome = "abort"
            return message

        async def watched_send(message: dict[str, Any]) -> None:
            nonlocal outcome, complete
            if message["type"] == "http.response.start":
                outcome = "stop" if message["status"] < 400 else "error"
            elif not message.get("more_body"):
                complete = True
            await send(message)

        token = _current.set(request)
        try:
            await app(scope, watched_receive, watched_send)
        except asyncio.CancelledError:
            outcome = "abort"
            raise
        finally:
            _current.reset(token)
            request.leave(outcome if complete or outcome == "abort" else "error")

    return metered


def _id_of(scope: Scope) -> str | None:
    if scope["type"] != "http":
        return None
    found = next((value for name, value in scope["headers"] if name == REQUEST_ID), None)
    return None if found is None else found.decode("latin-1")


def meter_engine(engine: Any) -> None:
    """Note, on this AsyncLLM, what each request asks of it."""
    engine.generate = _metered(engine.generate)
    engine.encode = _metered(engine.encode)
    processor = engine.output_processor
    add_request = processor.add_request

    def noted(request: Any, *args: Any, **kwargs: Any) -> None:
        add_request(request, *args, **kwargs)
        current = _current.get()
        state = processor.request_states.get(request.request_id)
        if current is not None and state is not None and state not in current.states:
            current.states.append(state)

    processor.add_request = noted


def _metered(generate: Callable[..., Any]) -> Callable[..., AsyncIterator[Any]]:
    async def metered(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        request = _current.get()
        if request is not None:
            request.enter()
        outcome = "error"
        try:
            async with contextlib.aclosing(generate(*args, **kwargs)) as outputs:
                async for output in outputs:
                    if output.finished:
                        outcome = _outcome(output)
                    yield output
        except (asyncio.CancelledError, GeneratorExit):
            if outcome == "error":
                outcome = "abort"
            raise
        finally:
            if request is not None:
                request.leave(outcome)

    return metered


def _outcome(output: Any) -> str:
    """The worst of its choices. What vLLM calls otherwise (repetition) ends like a stop; embeddings have no reason."""
    reasons = [getattr(choice, "finish_reason", None) for choice in _choices(output)]
    return max((reason if reason in _WORST else "stop" for reason in reasons), key=_WORST.index, default="stop")


def _choices(output: Any) -> list[Any]:
    outputs = output.outputs
    return outputs if isinstance(outputs, list) else [outputs]

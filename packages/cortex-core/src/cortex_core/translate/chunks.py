"""An engine's answer in chat completions, typed as far as a translation reads it. Unknown keys are ignored."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from cortex_core.errors import CortexError

DONE = b"[DONE]"
GAVE_UP = frozenset({"abort", "error"})  # finish reasons that are no ends of an answer: E-11


class Function(Struct, gc=False):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None

    @property
    def text(self) -> str:
        """The arguments as they are streamed: some engines send an object."""
        if isinstance(self.arguments, dict):
            return msgspec.json.encode(self.arguments).decode()
        return self.arguments or ""


class CallDelta(Struct, gc=False):
    """A tool call, or a piece of one."""

    index: int | None = None
    id: str | None = None
    function: Function | None = None


class Delta(Struct, gc=False):
    """A piece of an answer, or, as `message`, all of it."""

    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    tool_calls: list[CallDelta] | None = None

    @property
    def thought(self) -> str | None:
        """Engines name it one way or the other, and some both."""
        return self.reasoning or self.reasoning_content


class Logprobs(Struct, gc=False):
    content: list[dict[str, Any]] | None = None


class Choice(Struct, gc=False):
    index: int = 0
    delta: Delta | None = None
    message: Delta | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    logprobs: Logprobs | None = None


class PromptDetails(Struct, gc=False):
    cached_tokens: int | None = None
    created_cache_tokens: int | None = None


class CompletionDetails(Struct, gc=False):
    reasoning_tokens: int | None = None


class Usage(Struct, gc=False):
    prompt_tokens: int = 0
    completion_tokens: int | None = None
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None

    @property
    def cached(self) -> int:
        return (self.prompt_tokens_details and self.prompt_tokens_details.cached_tokens) or 0

    @property
    def reasoning(self) -> int:
        return (self.completion_tokens_details and self.completion_tokens_details.reasoning_tokens) or 0


class Chunk(Struct, gc=False):
    """One event of a stream, or a whole answer."""

    choices: list[Choice] = []
    usage: Usage | None = None
    error: Any = None


_decode = msgspec.json.Decoder(Chunk).decode


def read(data: bytes) -> Chunk:
    """One event's data, or a whole body.

    Raises:
        CortexError: upstream_failed; it is no chat completion, or an error.
    """
    try:
        chunk = _decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise CortexError("upstream_failed", "the engine's answer is no chat completion") from None
    if chunk.error is not None:
        raise CortexError("upstream_failed", "the engine could not answer")
    return chunk

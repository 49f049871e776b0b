"""A request's body: checked, translated for the engine, and read as far as routing needs it.

The engine reads what was judged here: a key given twice vanishes, and half a surrogate pair, which some clients send
and engines choke on, becomes U+FFFD. Whatever needs no change keeps its bytes.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import Raw, Struct

from cortex_core.dialects.body import absent, bad, encode, parse
from cortex_core.errors import Dialect
from cortex_core.fleet import ModelFacts
from cortex_core.translate import chat, messages, responses
from cortex_core.translate.chat import ChatContext, caps
from cortex_gateway.policy.usage import NOT_JSON

BYTES_A_TOKEN = 4  # of JSON; only for a guess
TOKENS = 512  # an answer's length where nothing is known of it, or the client only names a bound
HEAD_BYTES = 1024
MAX_SESSION = 256  # characters
_MAX_MODEL = 256  # characters; a longer name is no model of anybody's
_BOUNDS = ("max_completion_tokens", "max_tokens", "max_output_tokens")  # each dialect's word for the same

_string = msgspec.json.Decoder(str).decode
_number = msgspec.json.Decoder(int | None).decode
_flag = msgspec.json.Decoder(bool | None).decode
_options = msgspec.json.Decoder(dict[str, Raw] | None).decode

Values = dict[str, Raw]


class Target(Struct, frozen=True):
    """The model that a requested name means, and what is known of it."""

    model: str  # as the fleet calls it
    facts: ModelFacts = ModelFacts()
    untold: bool = False  # its next load tells more
    defaults: Mapping[str, Any] = {}  # for the engine, where the client says nothing
    adapter: str = ""  # of the model, which the engine knows by this name

    @property
    def engine(self) -> str:
        """What the engine calls it."""
        return self.adapter or self.model


class Engines(Struct, frozen=True):
    """The answer is the client's as the engine gives it, but for what `context` says."""

    context: ChatContext
    model: str  # as the engine calls it
    strip_usage: bool = False  # usage is asked for in the client's stead, and must not reach it
    spliced: bool = False  # something certainly has to be changed


class Json(Struct, frozen=True):
    """The answer is one JSON object of the engine's own; `model` is what it must call the model, if that differs."""

    model: str = ""


class Form(Struct, frozen=True):
    """The answer is the engine's own, whatever it is: an object, plain text, or events."""

    model: str = ""  # what it must call the model, if that differs


Answer = Engines | Json | Form | messages.Context | responses.Context
"""What the answer's way back to the client needs of the request."""


class Wanted(Struct, frozen=True, gc=False):
    """What a request wants, and the body for the engine."""

    model: str  # as the fleet calls it
    stream: bool
    tokens: int  # that it will probably take, prompt and answer; a guess
    prompt_tokens: int  # likewise, the prompt alone
    session: str  # what the client calls its conversation, if it does
    head: str  # a digest of the prompt's beginning
    payload: bytes | bytearray
    answer: Answer
    bound: int = 0  # of the answer's tokens, by the client's word; 0: none
    content_type: bytes = b"application/json"  # of the payload
    untold: bool = False  # the model's next load tells more, and may make another payload of it

    def payload_for(self, context: int) -> bytes | bytearray:
        """For a replica of so many tokens (0: unknown). Agents ask for tens of thousands whatever a model holds, and
        engines refuse a bound beyond that; what an answer may really take is less in any case."""
        if not 0 < context < self.bound:
            return self.payload
        values = parse(bytes(self.payload))
        for key in _BOUNDS:
            if key in values:
                values[key] = Raw(encode(context))
        return encode(values)


Resolve = Callable[[str], Target]
"""Raises CortexError, model_not_found."""


def read(body: bytes, dialect: Dialect, resolve: Resolve, *, counting: bool = False) -> Wanted:
    """A request of any dialect. `counting`: only the tokens of its prompt are wanted.

    Raises:
        CortexError: bad_request, naming the field where there is one; or what `resolve` raises.
    """
    values = parse(body)
    if dialect is Dialect.OPENAI_CHAT and (plain := chat.plain(body, values)) is not None:
        return _as_it_is(plain, values, resolve(plain.model))
    asked = _model(values)
    target = resolve(asked)
    if dialect is Dialect.ANTHROPIC_MESSAGES:
        message = messages.request(values, target.facts, model=target.engine, counting=counting)
        payload, stream, session = message.body, message.context.stream, message.context.session
        answer: Answer = message.context
    elif dialect is Dialect.OPENAI_RESPONSES:
        response = responses.request(values, target.facts, model=target.engine, counting=counting)
        payload, stream, session = response.body, response.context.stream, response.context.session
        answer = response.context
    else:
        engines, answer = _READERS[dialect](values, asked, target)
        stream = isinstance(answer, Engines) and answer.context.stream
        session = _session(values)
        payload = encode(_with_defaults(engines, target.defaults) if isinstance(answer, Engines) else engines)
    if target.defaults and not isinstance(answer, Engines | Json):
        payload = encode(_with_defaults(parse(payload), target.defaults))
    if counting:
        answer = Json()
    prompt = memoryview(values.get(_PROMPTS.get(dialect, ""), Raw()))
    prompt_tokens = max(1, len(payload) // BYTES_A_TOKEN)
    bound = _bound(values)
    return Wanted(
        model=target.model,
        stream=stream and not counting,
        tokens=len(prompt) // BYTES_A_TOKEN + min(bound or TOKENS, TOKENS),
        prompt_tokens=prompt_tokens,
        session=session,
        head=_digest(prompt),
        payload=payload,
        answer=answer,
        bound=bound,
        untold=target.untold,
    )


def _as_it_is(plain: chat.Plain, values: Values, target: Target) -> Wanted:
    """The fast path: what `read` makes of a chat request in which nothing has to be changed."""
    stream, options = bool(plain.stream), plain.stream_options
    strip = stream and not (options and options.include_usage) and _ask_for_usage(values)
    engine = target.engine
    renamed = _rename(values, plain.model, engine)
    payload = encode(_with_defaults(values, target.defaults) if target.defaults else values)
    prompt = memoryview(values["messages"])
    bound = plain.max_completion_tokens or plain.max_tokens or 0
    return Wanted(
        model=target.model,
        stream=stream,
        tokens=len(prompt) // BYTES_A_TOKEN + min(bound or TOKENS, TOKENS),
        prompt_tokens=max(1, len(payload) // BYTES_A_TOKEN),
        session=plain.prompt_cache_key[:MAX_SESSION],
        head=_digest(prompt),
        payload=payload,
        answer=Engines(ChatContext(model=plain.model, stream=stream), engine, strip, renamed),
        bound=bound,
        untold=target.untold,
    )


def _chat(values: Values, asked: str, target: Target) -> tuple[Values, Answer]:
    stream = bool(_value(values, "stream", _flag, "must be true or false"))
    strip = stream and _ask_for_usage(values)
    engines, context = chat.request(values, target.facts, model=target.engine)
    spliced = asked != target.engine or "tools" in engines
    return engines, Engines(context, target.engine, strip, spliced)


def _completions(values: Values, asked: str, target: Target) -> tuple[Values, Answer]:
    if absent(values.get("prompt")):
        raise bad("prompt", "is required")
    stream = bool(_value(values, "stream", _flag, "must be true or false"))
    strip = stream and _ask_for_usage(values)
    caps.check(values)
    spliced = _rename(values, asked, target.engine)
    return values, Engines(ChatContext(model=asked, stream=stream), target.engine, strip, spliced)


def _json(values: Values, asked: str, target: Target) -> tuple[Values, Answer]:
    """Embeddings, scores, tokens: an object in, an object out."""
    caps.check(values)
    if _value(values, "encoding_format", _text, "must be a string") in _NOT_JSON:
        raise bad("encoding_format", "must be one that JSON can hold")
    return values, Json(asked if _rename(values, asked, target.engine) else "")


_text = msgspec.json.Decoder(str | None).decode
_NOT_JSON = frozenset({"bytes", "bytes_only"})
_READERS: Mapping[Dialect, Callable[[Values, str, Target], tuple[Values, Answer]]] = {
    Dialect.OPENAI_CHAT: _chat,
    Dialect.OPENAI_COMPLETIONS: _completions,
    Dialect.OPENAI_EMBEDDINGS: _json,
    Dialect.ENGINE: _json,
}
_PROMPTS: Mapping[Dialect, str] = {
    Dialect.OPENAI_CHAT: "messages",
    Dialect.OPENAI_COMPLETIONS: "prompt",
    Dialect.OPENAI_RESPONSES: "input",
    Dialect.ANTHROPIC_MESSAGES: "messages",
}


def _rename(values: Values, asked: str, engine: str) -> bool:
    """Gives the model the name that its engine knows; whether it is another."""
    if asked == engine:
        return False
    values["model"] = Raw(encode(engine))
    return True


def _digest(prompt: memoryview) -> str:
    return f"{zlib.crc32(prompt[:HEAD_BYTES]):08x}"


def _model(values: Values) -> str:
    if "model" not in values:
        raise bad("model", "is required")
    model: str = _value(values, "model", _string, "must be a string")
    if not 0 < len(model) <= _MAX_MODEL:
        raise bad("model", f"must have 1 to {_MAX_MODEL} characters")
    return model


def _ask_for_usage(values: Values) -> bool:
    """Makes the engine end its stream with exact usage. False: the client asked for that itself."""
    options = _value(values, "stream_options", _options, "must be an object") or {}
    if "include_usage" in options and _value(options, "include_usage", _flag, "must be true or false"):
        return False
    # Running totals in every chunk are the client's only together with include_usage.
    kept = {key: value for key, value in options.items() if key != "continuous_usage_stats"}
    values["stream_options"] = Raw(encode({**kept, "include_usage": True}))
    return True


def _with_defaults(values: Values, defaults: Mapping[str, Any]) -> Values:
    """What the catalogue gives where the client says nothing. A bound on the answer is one, by whatever name."""
    for key, value in defaults.items():
        if not any(name in values for name in (_BOUNDS if key in _BOUNDS else (key,))):
            values[key] = Raw(encode(value))
    return values


def _bound(values: Values) -> int:
    """What the answer may take by the client's own word; 0: anything. Nonsense is left to the engine to refuse."""
    for key in _BOUNDS:
        if key in values:
            try:
                return max(0, _number(values[key]) or 0)
            except NOT_JSON:
                return 0
    return 0


def _session(values: Values) -> str:
    """OpenAI's name for what shares a prefix."""
    try:
        return _string(values["prompt_cache_key"])[:MAX_SESSION] if "prompt_cache_key" in values else ""
    except NOT_JSON:
        return ""


def _value(values: Values, key: str, decode: Any, problem: str) -> Any:
    raw = values.get(key)
    if raw is None:
        return None
    try:
        return decode(raw)
    except NOT_JSON:
        raise bad(key, problem) from None

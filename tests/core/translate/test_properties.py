"""What holds of every conversation and every stream, however odd."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cortex_core.errors import CortexError
from cortex_core.fleet import ModelFacts
from cortex_core.translate.calls import as_object
from cortex_core.translate.chat import ChatContext, ChatStream
from cortex_core.translate.chat import request as normalise
from cortex_core.translate.chat_events import Translation
from cortex_core.translate.messages import Context, MessagesStream, request, response
from tests.support.chunks import DONE, answer, call, chunk, function, role, text, thought, usage
from tests.support.readers.chat import read as read_chat
from tests.support.readers.messages import read

WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
INPUTS = st.dictionaries(
    WORDS, st.one_of(WORDS, st.integers(-9, 9), st.none(), st.lists(WORDS, max_size=2)), max_size=2
)
FACTS = st.builds(ModelFacts, vision=st.booleans(), system_first=st.booleans(), accepts_developer=st.booleans(),
                  reasoning=st.booleans(), thinking_toggle=st.sampled_from(["", "none", "low"]))  # fmt: skip
CONTEXTS = st.builds(Context, model=st.just("m"), thinking=st.sampled_from(["shown", "omitted", "hidden"]),
                     max_tokens=st.just(100), prewarm=st.booleans())  # fmt: skip


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[bytes], dict[int, str], str]:
    """An engine's stream of text, thinking and calls in any order; the calls' arguments; the finish reason."""
    count = draw(st.integers(0, 3))
    arguments = {n: json.dumps(draw(INPUTS)) for n in range(count)}
    finish = draw(st.sampled_from(["stop", "tool_calls", "length"]))
    truncated = draw(st.booleans())
    if arguments and truncated:
        arguments[0] = arguments[0][: draw(st.integers(0, len(arguments[0])))]
    left = {n: [call(n, "", id=f"id{n}", name=f"f{n}"), *_cut(draw, n, said)] for n, said in arguments.items()}
    pieces = [role()]
    for kind in draw(st.lists(st.sampled_from(["text", "thought", "call"]), max_size=12)):
        if kind == "call" and left:
            index = draw(st.sampled_from(sorted(left)))
            pieces.append(left[index].pop(0))
            if not left[index]:
                del left[index]
        elif kind != "call":
            pieces.append({"text": text, "thought": thought}[kind](draw(WORDS)))
    pieces += [piece for rest in left.values() for piece in rest]
    tail = draw(st.permutations([chunk(finish=finish), usage()]))
    return [*pieces, *tail, DONE], arguments, finish


def _cut(draw: st.DrawFn, index: int, said: str) -> list[bytes]:
    at = draw(st.integers(0, len(said)))
    return [call(index, said[:at]), call(index, said[at:])]


def translated(pieces: list[bytes], context: Context) -> bytes:
    translation = Translation(MessagesStream(context, "msg_1"))
    out = b"".join([*map(translation.feed, pieces), translation.end()])
    assert translation.done
    return out


@given(streams(), CONTEXTS)
def test_every_stream_reads_well_and_keeps_what_was_said(
    made: tuple[list[bytes], dict[int, str], str], context: Context
) -> None:
    pieces, arguments, finish = made
    got = read(translated(pieces, context))
    if context.prewarm:
        assert got.content == []
        return
    deltas = [json.loads(piece[6:])["choices"][0]["delta"] for piece in pieces[:-1] if b'"choices":[{' in piece]
    whole = "".join(delta.get("content") or "" for delta in deltas)
    if any(delta.get("reasoning") for delta in deltas):
        assert got.text().replace("\n", "") == whole.replace("\n", "")
    else:
        assert got.text() == whole
    if context.thinking == "shown":
        assert got.text("thinking") == "".join(delta.get("reasoning") or "" for delta in deltas)
    objects = {f"id{n}": as_object(said) for n, said in arguments.items()}
    for identity, name, value in got.tools:
        assert name == identity.replace("id", "f")
        assert value is None or value == json.loads(objects[identity] or "null") or got.stop_reason == "max_tokens"
    if finish != "length" and all(objects.values()):
        assert sorted(identity for identity, _, _ in got.tools) == sorted(objects)
        assert got.stop_reason == ("tool_use" if objects else "end_turn")
    else:
        assert got.stop_reason == "max_tokens"


@given(streams(), CONTEXTS, st.data())
def test_any_split_of_the_bytes_gives_the_same_events(
    made: tuple[list[bytes], dict[int, str], str], context: Context, data: st.DataObject
) -> None:
    whole = b"".join(made[0])
    cuts = sorted(data.draw(st.sets(st.integers(0, len(whole)), max_size=12)))
    split = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert translated(split, context) == translated(made[0], context)


@given(streams(), CONTEXTS, st.sets(st.integers(0, 12)))
def test_keepalives_change_nothing_that_was_said(
    made: tuple[list[bytes], dict[int, str], str], context: Context, at: set[int]
) -> None:
    stream = MessagesStream(context, "msg_1")
    translation = Translation(stream)
    out = b""
    for number, piece in enumerate(made[0]):
        out += stream.keepalive() if number in at and not context.prewarm else b""
        out += translation.feed(piece)
    plain, kept = read(translated(made[0], context)), read(out)
    assert (kept.text(), kept.tools, kept.stop_reason) == (plain.text(), plain.tools, plain.stop_reason)


QUOTED = st.lists(
    st.sampled_from(['"}', '","', "\\", '"model":"tiny"', ',"token_ids":null', "é", "x", "\n"]), max_size=4
)


@given(st.lists(QUOTED.map("".join), max_size=5), streams())
def test_a_chat_stream_keeps_what_was_said_however_it_comes(
    said: list[str], made: tuple[list[bytes], dict[int, str], str]
) -> None:
    pieces = [role(), *map(text, said), *made[0][1:]]
    alone, together = ChatStream(ChatContext(model="asked"), "tiny"), ChatStream(ChatContext(model="asked"), "tiny")
    out = b"".join(map(alone.feed, pieces))
    assert together.feed(b"".join(pieces)) == out
    got, deltas = read_chat(out), [json.loads(piece[6:])["choices"] for piece in pieces[:-1]]
    assert got.models == {"asked"}
    assert got.choices[0].text == "".join(d[0]["delta"].get("content") or "" for d in deltas if d)
    assert {n: one["arguments"] for n, one in got.choices[0].calls.items()} == made[1]


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Turns with calls and results as clients really send them, and sometimes as they do not."""
    turns: list[dict[str, Any]] = [{"role": "user", "content": draw(WORDS) or "q"}]
    for number in range(draw(st.integers(0, 4))):
        uses = [{"type": "tool_use", "id": f"t{number}-{n}", "name": "f", "input": draw(INPUTS)}
                for n in range(draw(st.integers(0, 2)))]  # fmt: skip
        turns.append({"role": "assistant", "content": [{"type": "text", "text": draw(WORDS)}, *uses]})
        if draw(st.booleans()):
            turns.append({"role": "system", "content": draw(WORDS) or "s"})
        results = [{"type": "tool_result", "tool_use_id": use["id"], "content": draw(WORDS)} for use in uses]
        kept = draw(st.permutations(results))[: draw(st.integers(0, 2))]
        turns.append({"role": "user", "content": [*kept, {"type": "text", "text": draw(WORDS) or "more"}]})
    return turns


@given(conversations(), FACTS)
def test_every_conversation_suits_templates_and_keeps_what_was_said(
    turns: list[dict[str, Any]], facts: ModelFacts
) -> None:
    body = {"model": "m", "max_tokens": 9, "messages": turns}
    made = json.loads(request(json.dumps(body).encode(), facts).body)["messages"]
    assert_in_order(made, facts)
    calls = [c for m in made for c in m.get("tool_calls", ())]
    uses = [b for t in turns for b in t["content"] if isinstance(b, dict) and b["type"] == "tool_use"]
    assert [(c["id"], json.loads(c["function"]["arguments"])) for c in calls] == [(u["id"], u["input"]) for u in uses]
    users = [t["content"] for t in turns if t["role"] == "user"]
    given = [said if isinstance(said, str) else said[-1]["text"] for said in users]
    contents = [m["content"] for m in made if m["role"] == "user"]
    heard = [said for c in contents for said in ([c] if isinstance(c, str) else [part["text"] for part in c])]
    assert [said for said in heard if not said.startswith("<system-reminder>")] == given


def assert_in_order(messages: list[dict[str, Any]], facts: ModelFacts) -> None:
    waiting: list[str] = []
    for number, message in enumerate(messages):
        if message["role"] == "tool":
            assert waiting.pop(0) == message["tool_call_id"]
            continue
        assert not waiting
        assert not (message["role"] == "system" and number and facts.system_first)
        assert not number or messages[number - 1]["role"] != message["role"] or message["role"] == "system"
        waiting = [one["id"] for one in message.get("tool_calls", ())]


KEYS = ["type", "text", "content", "role", "id", "name", "input", "source", "tool_calls"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | WORDS,
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
FIELDS = ["messages", "system", "tools", "tool_choice", "thinking", "output_config", "stop_sequences", "metadata",
          "temperature", "stop", "functions", "response_format", "logit_bias", "n", "stream", "max_tokens"]  # fmt: skip
GOOD: dict[str, Any] = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "a"}]}


def refusal(body: bytes, facts: ModelFacts, *, messages: bool) -> CortexError | None:
    try:
        request(body, facts) if messages else normalise(body, facts)
    except CortexError as error:
        return error
    return None


@settings(max_examples=200)
@given(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=3), FACTS, st.booleans())
def test_odd_bodies_are_answered_and_never_crash(fields: dict[str, Any], facts: ModelFacts, messages: bool) -> None:
    body = json.dumps({**GOOD, **fields}).encode()
    error = refusal(body, facts, messages=messages)
    assert error is None or (error.kind == "bad_request" and error.param)


@given(st.lists(JSON, max_size=3), FACTS, st.booleans(), st.sampled_from(["user", "assistant", "system", "tool"]))
def test_odd_messages_are_answered_and_never_crash(said: Any, facts: ModelFacts, messages: bool, who: str) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": who, "content": said, "tool_calls": said, "tool_call_id": said}]
    body = json.dumps({**GOOD, "messages": turns}).encode()
    error = refusal(body, facts, messages=messages)
    assert error is None or error.kind == "bad_request"


@given(WORDS, INPUTS, WORDS)
def test_there_and_back_an_answer_is_the_same_turn(said: str, value: dict[str, Any], thinking: str) -> None:
    """Chat answer → message → the client's next request → chat message."""
    made = {"content": said or None, "reasoning": thinking or None}
    arguments = json.dumps(value, ensure_ascii=False)
    context = Context(model="m", thinking="omitted")
    turn = json.loads(
        response(answer({**made, "tool_calls": [function("c", "f", arguments)]}, "tool_calls"), context, "msg_1")
    )
    results = [{"type": "tool_result", "tool_use_id": "c", "content": "ok"}]
    body = {**GOOD, "messages": [*GOOD["messages"], {"role": "assistant", "content": turn["content"]},
                                 {"role": "user", "content": results}]}  # fmt: skip
    back = json.loads(request(json.dumps(body).encode(), ModelFacts()).body)["messages"][1]
    assert (back["content"] or "").lstrip("\n") == said.lstrip("\n")
    assert back.get("reasoning", "") == thinking
    assert json.loads(back["tool_calls"][0]["function"]["arguments"]) == value

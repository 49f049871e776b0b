"""The Responses stream under any chat stream: always one that strict clients read, and the same however it is split."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cortex_core.errors import CortexError
from cortex_core.translate.responses import Context
from tests.support import chunks
from tests.support.chunks import DONE, call, chunk, event, role, text, thought, usage
from tests.support.readers.responses import CALLS, read, text_of
from tests.support.responses import said, streamed, translated, whole

TOOLS = [
    {"type": "function", "name": "f", "parameters": {}},
    {"type": "namespace", "name": "n", "description": "", "tools": [{"type": "function", "name": "g"}]},
    {"type": "custom", "name": "c"},
]
CONTEXT = translated(tools=TOOLS, include=["reasoning.encrypted_content"])[1]
NAMES = st.sampled_from(["f", "n__g", "c", "unknown", ""])
SAID = st.text(st.characters(codec="utf-8"), max_size=8)
FINISHES = st.sampled_from(["stop", "tool_calls", "length", "content_filter", "repetition"])

any_piece = st.one_of(
    SAID.map(text),
    SAID.map(thought),
    st.builds(
        call,
        st.sampled_from([0, 1, 2, None]),
        st.sampled_from(["", "{", "}", '{"a":1}', '{"input":"', 'x"}', "[1]", "null"]),
        id=st.sampled_from([None, "a", "b"]),
        name=st.none() | NAMES,
    ),
    st.builds(lambda content, reasoning: chunk({"content": content, "reasoning": reasoning}), SAID, SAID),
    FINISHES.map(lambda finish: chunk({}, finish)),
    st.sampled_from(
        [b": comment\n\n", usage(), event({"error": {"message": "x"}}), chunk({}, "abort"), b"data: x\n\n"]
    ),
)
any_stream = st.tuples(st.lists(any_piece, max_size=12), FINISHES, st.booleans()).map(
    lambda parts: b"".join([role(), *parts[0], chunk({}, parts[1]) if parts[2] else b"", DONE if parts[2] else b""])
)


@settings(deadline=None, max_examples=60)
@given(any_stream)
def test_rule_R_08_whatever_an_engine_sends_clients_can_read(stream: bytes) -> None:
    read(streamed([stream], CONTEXT))


@settings(deadline=None, max_examples=30)
@given(any_stream, st.data())
def test_rule_R_08_the_same_at_any_split(stream: bytes, data: st.DataObject) -> None:
    """fixture 13: down to single bytes, and with other line ends."""
    once = streamed([stream], CONTEXT)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert streamed(pieces, CONTEXT) == once
    crlf = stream.replace(b"\n", b"\r\n")
    assert streamed([crlf[at : at + 1] for at in range(len(crlf))], CONTEXT) == once


arguments = st.dictionaries(SAID, st.integers() | SAID, max_size=3).map(json.dumps)
any_answer = st.fixed_dictionaries(
    {"reasoning": SAID, "content": SAID, "calls": st.lists(st.tuples(NAMES.filter(bool), arguments), max_size=3)}
)


def pieces_of(value: str, draw: Any) -> list[str]:
    cut = draw(st.integers(0, len(value)))
    return [part for part in (value[:cut], value[cut:]) if part]


@settings(deadline=None, max_examples=50)
@given(any_answer, st.data())
def test_rule_R_07_streamed_or_not_the_response_is_the_same(answer: dict[str, Any], data: st.DataObject) -> None:
    draw = data.draw
    calls = [chunks.function(f"id{at}", name, said) for at, (name, said) in enumerate(answer["calls"])]
    pieces = [thought(part) for part in pieces_of(answer["reasoning"], draw)]
    pieces += [text(part) for part in pieces_of(answer["content"], draw)]
    for at, (name, arguments) in enumerate(answer["calls"]):
        pieces.append(call(at, id=f"id{at}", name=name))
        pieces += [call(at, part) for part in pieces_of(arguments, draw)]
    message = {"reasoning": answer["reasoning"], "content": answer["content"], "tool_calls": calls}
    streamed_ = said(*pieces, chunk({}, "stop"), chunks.usage(), DONE, context=CONTEXT).final
    assert streamed_ == whole(message, context=CONTEXT)
    assert text_of(streamed_["output"]) == answer["content"] or not answer["content"].strip()
    round_trip(streamed_["output"], answer, CONTEXT)


def round_trip(output: list[dict[str, Any]], answer: dict[str, Any], context: Context) -> None:
    """What an agent echoes in the next turn is, in chat, what the engine said."""
    results = [
        {"type": f"{item['type']}_output", "call_id": item["call_id"], "output": "ok"}
        for item in output
        if item["type"] in CALLS
    ]
    user = [{"role": "user", "content": "on"}]
    no_turn: dict[str, Any] = {"content": ""}
    for bare in (False, True):  # bare: as opencode, which echoes sealed reasoning alone
        echoed = [without_content(item) if bare and item["type"] == "reasoning" else item for item in output]
        sent, _ = translated(input=[*user, *echoed, *results, *user], tools=TOOLS)
        turn = next((one for one in sent["messages"] if one["role"] == "assistant"), no_turn)
        assert turn.get("reasoning", "") == answer["reasoning"]
        assert (turn["content"] or "") == (answer["content"] if text_of(output) else "")
        calls = [
            (one["id"], one["function"]["name"], one["function"]["arguments"]) for one in turn.get("tool_calls", [])
        ]
        kept = [
            (f"id{at}", name, arguments) for at, (name, arguments) in enumerate(answer["calls"]) if name != "c"
        ]  # fmt: skip
        assert [one for one in calls if one[1] != "c"] == kept
        assert len(calls) == len(answer["calls"])


def without_content(item: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in item.items() if key != "content"}


@settings(deadline=None, max_examples=60)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | SAID,
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
                        st.sampled_from(["type", "role", "content", "text", "name", "tools", "call_id", "output", "x"]),
                        inner, max_size=4), max_leaves=12), st.data())  # fmt: skip
def test_rule_E_07_any_body_is_translated_or_refused(value: Any, data: st.DataObject) -> None:
    """Never anything but a CortexError, and every refusal names its field."""
    field = data.draw(
        st.sampled_from(
            ["input", "tools", "tool_choice", "text", "reasoning", "include", "instructions", "stream", "metadata",
             "max_output_tokens", "temperature", "top_logprobs", "user", "seed", "parallel_tool_calls", "background"]
        )
    )  # fmt: skip
    refusal = context = None
    try:
        _, context = translated(**{field: value})
    except CortexError as error:
        refusal = error
    if refusal is None:
        said(text("Hi"), chunk({}, "stop"), DONE, context=context)
    else:
        assert refusal.kind == "bad_request"
        assert refusal.param is not None
        assert refusal.param.split(".")[0] in {field, "tools", "input"}

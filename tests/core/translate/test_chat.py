"""Protocol 4: the chat normaliser."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cortex_core.errors import CortexError
from cortex_core.fleet import ModelFacts
from cortex_core.translate.chat import ChatContext, ChatStream, request, response
from cortex_core.translate.chat.tools import Tools
from tests.support.chunks import DONE, answer, call, chunk, end, event, function, role, text, thought, usage
from tests.support.readers.chat import Read, read

PLAIN = ModelFacts()
ASKED = ChatContext(model="asked")
ANY = ModelFacts(system_first=False, accepts_developer=True)
USER = {"role": "user", "content": "Hi"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CUSTOM = {"type": "custom", "custom": {"name": "patch", "description": "d", "format": {"type": "text"}}}


def calls(*made: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(made), **more}


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "asked", "messages": [USER], **fields}


def normal(facts: ModelFacts = PLAIN, **fields: Any) -> dict[str, Any]:
    values, _ = request(json.dumps(body(**fields)).encode(), facts)
    return {key: json.loads(bytes(raw)) for key, raw in values.items()}


def messages(*said: dict[str, Any], facts: ModelFacts = PLAIN) -> list[dict[str, Any]]:
    return list(normal(facts, messages=list(said))["messages"])


def context(**fields: Any) -> ChatContext:
    return request(json.dumps(body(**fields)).encode(), ModelFacts()).context


def refused(**fields: Any) -> CortexError:
    with pytest.raises(CortexError) as caught:
        normal(**fields)
    assert caught.value.kind == "bad_request"
    return caught.value


def tool(identity: str, content: Any = "ok") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": identity, "content": content}


def spliced(*events: bytes, context: ChatContext = ASKED) -> Read:
    stream = ChatStream(context, "tiny")
    one_by_one = b"".join(map(stream.feed, events))
    assert ChatStream(context, "tiny").feed(b"".join(events)) == one_by_one
    return read(one_by_one)


def test_an_ordinary_request_keeps_every_byte() -> None:
    raw = (
        b'{"model":"m", "messages":[{"role":"system","content":"s"}, {"role":"user","content":['
        b'{"type":"text","text":"a"},{"type":"image_url","image_url":{"url":"data:,"}}]},{"role":"assistant","content":null,"tool_calls":['
        b'{"id":"c","type":"function","function":{"name":"f","arguments":"{\\"a\\": 1.0}"}}]},'
        b'{"role":"tool","tool_call_id":"c","content":"x"}],"temperature":1.0,"tools":[{"type":"function",'
        b'"function":{"name":"f","parameters":{ "type":"object"}}}],"tool_choice":"auto","seed":7,"user":"u"}'
    )
    values, _ = request(raw, ModelFacts())
    assert b"{" + b",".join(json.dumps(k).encode() + b":" + bytes(v) for k, v in values.items()) + b"}" == raw.replace(
        b', "messages"', b',"messages"'
    )


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"model": None}, "model"), ({"messages": None}, "messages"), ({"messages": {}}, "messages"),
        ({"messages": []}, "messages"), ({"messages": [5]}, "messages.0"), ({"messages": [{}]}, "messages.0"),
        ({"stream": 5}, "stream"), ({"tools": {}}, "tools"), ({"tools": [{"type": "function"}]}, "tools.0.function"),
        ({"stop": 5}, "stop"), ({"stop": [5]}, "stop.0"), ({"max_tokens": "x"}, "max_tokens"),
        ({"messages": [{"role": "tool", "tool_call_id": [1]}]}, "messages.0.tool_call_id"),
        ({"messages": [calls(function([1], "f", "{}"))]}, "messages.0.tool_calls.0.id"),  # type: ignore[arg-type]
        ({"logit_bias": {"x": 1}}, "logit_bias"), ({"logit_bias": []}, "logit_bias"), ({"n": "x"}, "n"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
    ],
)  # fmt: skip
def test_bad_input_is_told_by_its_field(fields: dict[str, Any], named: str) -> None:
    assert refused(**fields).param == named


@pytest.mark.parametrize(
    "fields",
    [
        {"chat_template": "{{ x }}"}, {"prompt_embeds": "AA=="}, {"mm_processor_kwargs": {"a": 1}},
        {"media_io_kwargs": {}}, {"kv_transfer_params": {}}, {"ec_transfer_params": {}}, {"vllm_xargs": {}},
        {"n": 10**6}, {"best_of": 17},
        {"top_logprobs": 21}, {"prompt_logprobs": 100}, {"min_tokens": 1 << 30},
        {"logit_bias": {str(n): 1 for n in range(2000)}}, {"tools": [TOOL] * 10_000},
        {"functions": [{"name": "f"}] * 2000},
        {"stop": ["x"] * 65}, {"stop": "x" * 5000}, {"stop_token_ids": [1] * 2000}, {"bad_words": ["x"] * 2000},
        {"logprob_token_ids": [1] * 200}, {"structured_outputs": {"regex": "a" * 300_000}},
        {"response_format": {"type": "json_schema", "x": "a" * 300_000}}, {"guided_regex": "(a+)+" * 3000},
        {"guided_grammar": "a" * 70_000}, {"chat_template_kwargs": {"a": "x" * 9000}},
        {"chat_template_kwargs": {"chat_template": "x"}}, {"chat_template_kwargs": 5},
        {"repetition_detection": {"a": "x" * 2000}},
    ],
    ids="+".join,
)  # fmt: skip
def test_F65_what_no_request_may_ask_of_an_engine(fields: dict[str, Any]) -> None:
    assert (refused(**fields).param or "").split(".")[0] == next(iter(fields))


def test_F65_a_request_id_is_ours() -> None:
    assert "request_id" not in normal(request_id="mine")
    assert "chat_template" not in normal(chat_template=None)


def test_rule_C_01_developer_is_system_and_leading_ones_are_one() -> None:
    made = messages({"role": "system", "content": "a"}, {"role": "developer", "content": "b"}, USER)
    assert made == [{"role": "system", "content": "a\n\nb"}, USER]
    kept = [{"role": "developer", "content": "a"}, USER]
    assert messages(*kept, facts=ANY) == kept


def test_rule_C_01_system_in_the_middle() -> None:
    said = [USER, {"role": "assistant", "content": "a"}, {"role": "system", "content": "s"}, USER]
    assert messages(*said, facts=ANY) == said
    made = messages(*said)
    assert [m["role"] for m in made] == ["user", "assistant", "user"]
    assert [p["text"] for p in made[2]["content"]] == ["<system-reminder>\ns\n</system-reminder>", "Hi"]


def test_rule_C_02_legacy_functions() -> None:
    said = [
        USER, {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "ok"},
    ]  # fmt: skip
    made = normal(messages=said, functions=[{"name": "f", "parameters": {}}], function_call={"name": "f"})
    assert made["tools"] == [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    assert made["tool_choice"] == {"type": "function", "function": {"name": "f"}}
    assert not {"functions", "function_call"} & set(made)
    assert made["messages"][1]["tool_calls"][0]["id"] == made["messages"][2]["tool_call_id"]
    assert made["messages"][2]["role"] == "tool"


def test_rule_C_02_calls_go_back_as_function_call() -> None:
    legacy = context(functions=[{"name": "f"}])
    got = json.loads(response(answer({"tool_calls": [function("c", "f", '{"a":1}')]}, "tool_calls"), legacy))[
        "choices"
    ][0]
    assert got["message"]["function_call"] == {"name": "f", "arguments": '{"a":1}'}
    assert (got["finish_reason"], "tool_calls" in got["message"]) == ("function_call", False)
    streamed = spliced(role(), call(0, '{"a":', id="c", name="f"), call(0, "1}"), end("tool_calls"), context=legacy)
    assert streamed.choices[0].legacy == {"name": "f", "arguments": '{"a":1}'}
    assert streamed.choices[0].finish == "function_call"


@pytest.mark.parametrize("tools", [[], None, ...])
def test_rule_C_03_without_tools_no_choice(tools: Any) -> None:
    made = normal(**({} if tools is ... else {"tools": tools}), tool_choice="auto", parallel_tool_calls=True)
    assert not {"tools", "tool_choice", "parallel_tool_calls"} & set(made)


def test_rule_C_03_allowed_tools() -> None:
    other = {"type": "function", "function": {"name": "g"}}
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "g"}}]}
    made = normal(tools=[TOOL, other], tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
    assert (made["tools"], made["tool_choice"]) == ([other], "required")


def test_rule_C_03_custom_tools_and_back() -> None:
    said = [USER, calls({"id": "c", "type": "custom", "custom": {"name": "patch", "input": "*** x"}}), tool("c")]
    choice = {"type": "custom", "custom": {"name": "patch"}}
    made = normal(tools=[TOOL, CUSTOM, {"type": "web_search"}], tool_choice=choice, messages=said)
    assert [t["function"]["name"] for t in made["tools"]] == ["f", "patch"]
    assert made["tool_choice"] == {"type": "function", "function": {"name": "patch"}}
    assert made["messages"][1]["tool_calls"][0]["function"] == {"name": "patch", "arguments": '{"input":"*** x"}'}

    custom = context(tools=[TOOL, CUSTOM])
    back = {"id": "c", "type": "custom", "custom": {"name": "patch", "input": "*** x"}}
    got = response(answer({"tool_calls": [function("c", "patch", '{"input":"*** x"}')]}, "tool_calls"), custom)
    assert json.loads(got)["choices"][0]["message"]["tool_calls"] == [back]
    streamed = spliced(
        role(), call(0, '{"input":', id="c", name="patch"), call(0, '"*** x"}'), end("tool_calls"), context=custom
    )
    assert streamed.choices[0].calls[0]["custom"] == back["custom"]


def test_rule_C_03_a_custom_call_without_input() -> None:
    custom = context(tools=[CUSTOM])
    got = json.loads(response(answer({"tool_calls": [function("c", "patch", "")]}, "tool_calls"), custom))
    assert got["choices"][0]["message"]["tool_calls"][0]["custom"] == {"name": "patch", "input": "{}"}


def test_rule_C_04_content_parts() -> None:
    fine = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "data:,", "detail": "low"}},
            {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}]  # fmt: skip
    assert messages({"role": "user", "content": fine}) == [{"role": "user", "content": fine}]
    odd = [{"type": "file", "file": {"filename": "a.pdf", "file_data": "x"}}, {"type": "refusal", "refusal": "no"}]
    assert [p["text"] for p in messages({"role": "user", "content": odd})[0]["content"]] == [
        "[file omitted: a.pdf]",
        "no",
    ]
    blind = messages({"role": "user", "content": fine[1:2]}, facts=ModelFacts(vision=False))
    assert "no vision" in blind[0]["content"][0]["text"]
    assert messages({"role": "user", "content": None})[0]["content"] is None


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"content": "a", "tool_calls": []}, {"content": "a"}),
        ({"content": "a", "tool_calls": None}, {"content": "a"}),
        ({"content": "a", "reasoning_content": "r"}, {"content": "a", "reasoning": "r"}),
        ({"content": "a", "reasoning": "r"}, {"content": "a", "reasoning": "r"}),
        (
            {"content": "a", "reasoning_details": [{"type": "reasoning.text", "text": "r"}]},
            {"content": "a", "reasoning": "r"},
        ),
        ({"content": [{"type": "refusal", "refusal": "no"}]}, {"content": "no"}),
    ],
)
def test_rule_C_05_assistant_messages(given: dict[str, Any], sent: dict[str, Any]) -> None:
    assert messages(USER, {"role": "assistant", **given}, USER)[1] == {"role": "assistant", **sent}


@pytest.mark.parametrize(
    ("arguments", "sent"), [({"a": "é"}, '{"a":"é"}'), ("{}", "{}"), ("not json", "not json"), (None, "{}")]
)
def test_rule_C_05_arguments_are_a_string(arguments: Any, sent: str) -> None:
    made = messages(USER, calls(function("c", "f", arguments)), tool("c"))
    assert made[1]["tool_calls"][0]["function"]["arguments"] == sent


def test_rule_C_06_results_in_the_order_of_their_calls() -> None:
    both = calls(function("a", "f", "{}"), function("b", "f", "{}"))
    made = messages(USER, both, tool("b"), tool("a", "old"), tool("a", "new"), tool("z", "lost"), USER)
    assert [(m["role"], m["content"]) for m in made[2:]] == [
        ("tool", "new"), ("tool", "ok"), ("user", "[tool result z] lost"), ("user", "Hi"),
    ]  # fmt: skip


def test_rule_C_07_parameters() -> None:
    ignored: dict[str, Any] = {
        "verbosity": "low", "store": True, "metadata": {}, "service_tier": "flex", "prediction": {}, "seed": 2**40,
        "safety_identifier": "x", "prompt_cache_key": "k", "logprobs": True, "top_logprobs": 20,
        "logit_bias": {"5": -1}, "n": 2, "response_format": {"type": "json_object"},
    }  # fmt: skip
    made = normal(**ignored)
    assert {key: made[key] for key in ignored} == ignored
    changed = normal(max_tokens=0, max_completion_tokens=None, stream_options={"include_usage": True},
                     reasoning_effort="ultra", stop=["", "a"])  # fmt: skip
    assert set(changed) == {"model", "messages", "reasoning_effort", "stop"}
    assert (changed["reasoning_effort"], changed["stop"]) == ("high", ["a"])
    assert "stream_options" in normal(stream=True, stream_options={"include_usage": True})
    assert "reasoning_effort" not in normal(reasoning_effort=None)


def test_rule_C_08_usage_passes_as_the_engine_wrote_it() -> None:
    """Asking for it and stripping it is the gateway's tap, before these bytes."""
    assert ChatStream(ChatContext(model="tiny"), "tiny").feed(usage()) == usage()


def test_rule_C_09_an_answer_for_the_client() -> None:
    got = json.loads(response(answer({"content": "a", "reasoning": "r"}), ChatContext(model="asked")))
    assert (got["id"], got["model"]) == ("chatcmpl-1", "asked")
    assert got["choices"][0]["message"]["reasoning_content"] == got["choices"][0]["message"]["reasoning"] == "r"
    assert not {"prompt_logprobs", "kv_transfer_params"} & set(got)
    assert not {"token_ids", "stop_reason"} & set(got["choices"][0])
    asked = json.loads(response(answer({"content": "a"}, prompt_logprobs=[None]), ChatContext(model="asked")))
    assert asked["prompt_logprobs"] == [None]


def test_rule_C_09_a_stream_for_the_client() -> None:
    tricky = 'say "model":"tiny" and ,"token_ids":null'
    got = spliced(role(), thought("r"), text(tricky), end())
    assert got.models == {"asked"}
    assert (got.choices[0].reasoning, got.choices[0].text) == ("r", tricky)
    assert not any("token_ids" in choice for chunk in got.chunks for choice in chunk["choices"])


def test_rule_C_10_calls_have_an_index_and_a_type() -> None:
    odd = chunk({"tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{}"}},
                                {"id": "b", "function": {"name": "g", "arguments": "{}"}}]})  # fmt: skip
    got = spliced(role(), odd, end("tool_calls"))
    assert {index: one["name"] for index, one in got.choices[0].calls.items()} == {0: "f", 1: "g"}


@pytest.mark.parametrize("given", [{}, {"prompt_tokens": 3}, {"prompt_tokens": 3, "completion_tokens": 4}])
def test_rule_C_10_usage_is_whole_or_none(given: dict[str, int]) -> None:
    head = {"id": "i", "object": "chat.completion.chunk", "created": 1, "model": "tiny", "choices": []}
    got = spliced(role(), text("a"), chunk(finish="stop"), event({**head, "usage": given}), DONE)
    assert got.usage is None if not given else got.usage is not None


@pytest.mark.parametrize(
    ("finish", "arguments", "reason"),
    [
        ("stop", ["{}"], "tool_calls"), ("tool_calls", ["{}"], "tool_calls"), ("stop", [], "stop"),
        ("tool_calls", [], "stop"), ("repetition", [], "stop"), ("length", [], "length"), ("length", ['{"a'], "length"),
        ("tool_calls", ['{"a'], "length"), ("stop", ["{}", '{"a'], "length"), ("content_filter", [], "content_filter"),
    ],
)  # fmt: skip
def test_rule_C_11_finish_reasons(finish: str, arguments: list[str], reason: str) -> None:
    made = [function(f"c{n}", "f", said) for n, said in enumerate(arguments)]
    got = json.loads(response(answer({"content": "a", "tool_calls": made}, finish), ChatContext(model="asked")))
    assert got["choices"][0]["finish_reason"] == reason
    kept = got["choices"][0]["message"].get("tool_calls") or []
    assert [one["function"]["arguments"] for one in kept] == [a for a in arguments if a == "{}"]
    pieces = [call(n, said, id=f"c{n}", name="f") for n, said in enumerate(arguments)]
    assert spliced(role(), *pieces, end(finish)).choices[0].finish == reason


def test_rule_C_11_at_the_length_the_last_call_is_not_trusted() -> None:
    got = json.loads(response(answer({"tool_calls": [function("c", "f", "{}")]}, "length"), ChatContext(model="m")))
    assert (got["choices"][0]["finish_reason"], "tool_calls" in got["choices"][0]["message"]) == ("length", False)


@pytest.mark.parametrize("finish", ["abort", "error"])
def test_rule_C_11_an_engine_that_gave_up_is_an_error(finish: str) -> None:
    with pytest.raises(CortexError):
        response(answer({"content": "a"}, finish), ChatContext(model="m"))


def test_rule_C_12_several_choices() -> None:
    def of(index: int, piece: bytes) -> bytes:
        return piece.replace(b'{"index":0,"delta"', b'{"index":%d,"delta"' % index)

    pieces = [call(0, '{"a":', id="c", name="f"), call(0, "1}")]
    got = spliced(*(of(n, p) for p in [role(), *pieces] for n in (0, 1)), of(1, chunk(finish="tool_calls")),
                  of(0, chunk(finish="stop")), usage(), DONE)  # fmt: skip
    assert [got.choices[n].calls[0]["arguments"] for n in (0, 1)] == ['{"a":1}'] * 2
    assert [got.choices[n].finish for n in (0, 1)] == ["tool_calls"] * 2


def test_rule_C_13_logprobs_pass() -> None:
    logprobs = {"content": [{"token": '"model":"tiny"', "logprob": -0.1, "bytes": None, "top_logprobs": []}]}
    piece = chunk({"content": "a"}, None).replace(b'"logprobs":null', b'"logprobs":' + json.dumps(logprobs).encode())
    got = spliced(role(), piece, end())
    assert got.chunks[1]["choices"][0]["logprobs"] == logprobs


def test_rule_C_14_reasoning_alone_stays_as_it_is() -> None:
    got = json.loads(response(answer({"content": None, "reasoning": "r"}, "length"), ChatContext(model="asked")))
    assert got["choices"][0]["message"]["content"] is None
    assert got["choices"][0]["finish_reason"] == "length"


def test_rule_H_05_comments_pass_untouched() -> None:
    stream = ChatStream(ChatContext(model="asked", tools=Tools()), "tiny")
    assert stream.feed(b": keep-alive\n\n" + chunk(finish="stop")).startswith(b": keep-alive\n\ndata: ")

"""Protocol 3.1: a Messages request as a chat request."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from cortex_core.errors import CortexError
from cortex_core.fleet import ModelFacts
from cortex_core.translate.messages import Context, bare_model, request
from cortex_core.translate.opaque import seal

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(40)).decode()
JPEG = base64.b64encode(b"\xff\xd8\xff\xe0" + bytes(40)).decode()
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
PLAIN = ModelFacts()
THINKS = ModelFacts(reasoning=True, thinking_toggle="none", thinking_budget=True, system_first=False, context=32768)
TOOL = {
    "name": "f",
    "description": "does f",
    "input_schema": {"type": "object", "properties": {"a": {"type": "string"}}},
}
USE = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": "é"}}


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "claude-x", "max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}], **fields}


def both(facts: ModelFacts = PLAIN, **fields: Any) -> tuple[dict[str, Any], Context]:
    made = request(json.dumps(body(**fields)).encode(), facts)
    return json.loads(made.body), made.context


def chat(facts: ModelFacts = PLAIN, **fields: Any) -> dict[str, Any]:
    return both(facts, **fields)[0]


def turns(*messages: tuple[str, Any], facts: ModelFacts = PLAIN, **fields: Any) -> list[dict[str, Any]]:
    return list(chat(facts, messages=[{"role": r, "content": c} for r, c in messages], **fields)["messages"])


def parts(*blocks: Any, facts: ModelFacts = PLAIN) -> Any:
    return turns(("user", list(blocks)), facts=facts)[0]["content"]


def result(content: Any = "ok", identity: str = "toolu_1", **more: Any) -> dict[str, Any]:
    made = {"type": "tool_result", "tool_use_id": identity, "content": content, **more}
    return {key: value for key, value in made.items() if value is not ...}


def refused(**fields: Any) -> CortexError:
    with pytest.raises(CortexError) as caught:
        chat(**fields)
    assert caught.value.kind == "bad_request"
    return caught.value


def test_rule_A_01_unknown_fields_are_ignored_and_known_ones_required() -> None:
    made = chat(
        container=None, mcp_servers=[{}], context_management={"edits": []}, betas=["x"], speed=1, new={"a": [1]}
    )
    assert set(made) == {"model", "messages", "max_tokens"}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": "9"}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"model": None}, "model"),
        ({"model": 3}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": {}}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"content": "x"}]}, "messages.0"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages.0.content.0"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}, "messages.0.content.0.text"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages.0.content.0.source"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, "messages.0.content.0.tool_use_id"),
        ({"messages": [{"role": "assistant", "content": [{"type": "tool_use"}]}]}, "messages.0.content.0.id"),
        ({"system": 5}, "system"),
        ({"temperature": "hot"}, "temperature"),
        ({"stop_sequences": "x"}, "stop_sequences"),
        ({"stream": "yes"}, "stream"),
        ({"tools": {}}, "tools"),
        ({"tools": [{"input_schema": {}}]}, "tools.0.name"),
        ({"tools": [{"name": "f", "input_schema": 5}]}, "tools.0.input_schema"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
    ],
)
def test_rule_A_01_bad_input_is_told_by_its_field(fields: dict[str, Any], named: str) -> None:
    assert refused(**fields).param == named


def test_rule_A_02_the_long_context_mark_is_not_part_of_the_name() -> None:
    made, context = both(model="claude-x[1m]")
    assert (bare_model("claude-x[1m]"), made["model"], context.model) == ("claude-x", "claude-x", "claude-x[1m]")
    assert json.loads(request(json.dumps(body()).encode(), ModelFacts(), model="tiny").body)["model"] == "tiny"


def test_rule_A_03_system_blocks_are_one_message() -> None:
    system = [
        {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.197.d49"},
        {"type": "text", "text": "one", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "two", "citations": None},
    ]
    assert turns(("user", "Hi"), system=system)[0] == {"role": "system", "content": "one\n\ntwo"}
    assert turns(("user", "Hi"), system="one")[0] == {"role": "system", "content": "one"}


@pytest.mark.parametrize("system", [None, "", [], [{"type": "text", "text": ""}]])
def test_rule_A_04_an_empty_system_is_none(system: Any) -> None:
    assert [m["role"] for m in turns(("user", "Hi"), system=system)] == ["user"]


def test_rule_A_05_inline_system_where_templates_take_it() -> None:
    said = turns(
        ("user", "a"), ("system", "s"), ("assistant", "b"), ("user", "c"), facts=ModelFacts(system_first=False)
    )
    assert [m["role"] for m in said] == ["user", "system", "assistant", "user"]


def test_rule_A_05_inline_system_joins_the_user_before_it() -> None:
    said = turns(("user", "a"), ("system", "s"), ("assistant", "b"), system="top")
    assert [m["role"] for m in said][:2] == ["system", "user"]
    assert said[0]["content"] == "top"
    assert said[1]["content"][1]["text"] == "<system-reminder>\ns\n</system-reminder>"


def test_rule_A_05_inline_system_joins_the_user_after_it() -> None:
    said = turns(("user", "a"), ("assistant", "b"), ("system", "s"), ("user", "c"))
    assert [m["role"] for m in said] == ["user", "assistant", "user"]
    assert [part["text"] for part in said[2]["content"]] == ["<system-reminder>\ns\n</system-reminder>", "c"]


@pytest.mark.parametrize("first", [True, False])
def test_rule_A_05_nothing_comes_between_calls_and_results(first: bool) -> None:
    said = turns(
        ("user", "a"), ("assistant", [USE]), ("system", "s"), ("user", [result()]),
        facts=ModelFacts(system_first=first),
    )  # fmt: skip
    assert [m["role"] for m in said] == ["user", "assistant", "tool", "user" if first else "system"]


def test_rule_A_06_tools_come_and_go() -> None:
    changes = [
        {"type": "tool_removal", "tool": {"type": "tool_reference", "name": "f"}},
        {"type": "tool_addition", "tool": {"type": "tool_definition", "definition": {**TOOL, "name": "g"}}},
    ]
    made = chat(tools=[TOOL], messages=[{"role": "user", "content": "a"}, {"role": "system", "content": changes}])
    assert [tool["function"]["name"] for tool in made["tools"]] == ["g"]


def test_rule_A_10_content_keeps_its_order() -> None:
    assert parts({"type": "text", "text": "a"}) == "a"
    assert [p["type"] for p in parts({"type": "text", "text": "a"}, IMAGE, {"type": "text", "text": "b"})] == [
        "text", "image_url", "text",
    ]  # fmt: skip


def test_rule_A_11_neighbours_of_one_role_are_one_turn() -> None:
    said = turns(("user", "a"), ("user", "b"), ("assistant", "c"), ("assistant", "d"), ("user", "e"))
    assert [m["role"] for m in said] == ["user", "assistant", "user"]
    assert [p["text"] for p in said[0]["content"]] == ["a", "b"]
    assert said[1]["content"] == "cd"


def test_rule_A_12_a_prefill_is_continued() -> None:
    made = chat(THINKS, messages=[{"role": "user", "content": "a"}, {"role": "assistant", "content": '{"a": '}],
                thinking={"type": "adaptive"})  # fmt: skip
    assert made["messages"][-1] == {"role": "assistant", "content": '{"a":'}
    assert (made["continue_final_message"], made["add_generation_prompt"]) == (True, False)
    assert made["reasoning_effort"] == "none"
    assert "continue_final_message" not in chat(
        messages=[{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]
    )


def test_rule_A_12_a_call_at_the_end_has_no_result() -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": [USE]}]
    assert refused(messages=messages).param == "messages"


def test_rule_A_13_an_assistant_turn() -> None:
    blocks = [
        {"type": "thinking", "thinking": "one", "signature": "s"},
        {"type": "text", "text": "a"},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "thinking", "thinking": "two", "signature": ""},
        {"type": "text", "text": "b"},
        USE,
    ]
    made = turns(("user", "q"), ("assistant", blocks), ("user", [result()]))[1]
    assert made == {
        "role": "assistant",
        "content": "ab",
        "reasoning": "one\n\ntwo",
        "tool_calls": [{"id": "toolu_1", "type": "function", "function": {"name": "f", "arguments": '{"a":"é"}'}}],
    }
    assert turns(("user", "q"), ("assistant", [USE]), ("user", [result()]))[1]["content"] is None
    assert turns(("user", "q"), ("assistant", []), ("user", "r"))[1]["content"] == ""


@pytest.mark.parametrize(
    ("given", "arguments"),
    [
        ({}, "{}"),
        (..., "{}"),
        (None, "{}"),
        ("", "{}"),
        ('{"a": 1}', '{"a":1}'),
        ("x", '{"value":"x"}'),
        ([1], '{"value":[1]}'),
    ],
)
def test_rule_A_14_input_is_an_object(given: Any, arguments: str) -> None:
    use = {key: value for key, value in {**USE, "id": "functions.x:0", "input": given}.items() if value is not ...}
    made = turns(("user", "q"), ("assistant", [use]), ("user", [result(identity="functions.x:0")]))
    assert made[1]["tool_calls"][0]["function"]["arguments"] == arguments
    assert made[1]["tool_calls"][0]["id"] == made[2]["tool_call_id"] == "functions.x:0"


def test_rule_A_15_results_first_then_images_then_the_rest() -> None:
    uses = [{**USE, "id": "a"}, {**USE, "id": "b"}]
    answer = [
        {"type": "text", "text": "before"}, result([{"type": "text", "text": "seen"}, IMAGE], "b"),
        {"type": "text", "text": "between"}, result("1", "a"), {"type": "text", "text": "after"},
    ]  # fmt: skip
    made = turns(("user", "q"), ("assistant", uses), ("user", answer))
    assert [(m["role"], m.get("tool_call_id")) for m in made[2:]] == [("tool", "a"), ("tool", "b"), ("user", None)]
    assert [p.get("text", "image") for p in made[4]["content"]] == [
        "[images of the result of tool call b]", "image", "before", "between", "after",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "flag", "said"),
    [
        ("boom", True, "Error: boom"), ("boom", False, "boom"), ("Error: boom", True, "Error: boom"),
        ("<tool_use_error>x</tool_use_error>", True, "<tool_use_error>x</tool_use_error>"),
    ],
)  # fmt: skip
def test_rule_A_16_errors_stay_errors(content: str, flag: bool, said: str) -> None:
    made = turns(("user", "q"), ("assistant", [USE]), ("user", [result(content, is_error=flag)]))
    assert made[2]["content"] == said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("x", "x"), (..., ""), (None, ""), ([], ""), ("", ""),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "a\nb"),
        ([{"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "d"}}], "[document]\nd"),
        ([{"type": "search_result", "title": "t", "source": "u", "content": [{"type": "text", "text": "c"}]}],
         "t (u)\nc"),
        ([{"type": "tool_reference", "tool_name": "x"}, {"type": "browser_state", "x": 1}], ""),
        ([IMAGE], "[the result is an image: see below]"),
    ],
)  # fmt: skip
def test_rule_A_17_contents_of_results(content: Any, said: str) -> None:
    assert turns(("user", "q"), ("assistant", [USE]), ("user", [result(content)]))[2]["content"] == said


def test_rule_A_18_a_result_without_its_call_is_text() -> None:
    assert turns(("user", [result("gone", "toolu_9")]))[0] == {"role": "user", "content": "[tool result toolu_9] gone"}


def test_rule_A_19_a_call_without_its_result_gets_one() -> None:
    made = turns(("user", "q"), ("assistant", [USE, {**USE, "id": "toolu_2"}]), ("user", [result()]))
    assert made[3] == {"role": "tool", "tool_call_id": "toolu_2", "content": "(tool call was not executed)"}


@pytest.mark.parametrize(
    ("source", "facts", "url"),
    [
        ({"type": "base64", "media_type": "image/png", "data": PNG}, {}, f"data:image/png;base64,{PNG}"),
        ({"type": "base64", "media_type": "image/png", "data": JPEG}, {}, f"data:image/jpeg;base64,{JPEG}"),
        ({"type": "url", "url": "https://x/y.png"}, {"fetches_urls": True}, "https://x/y.png"),
        ({"type": "url", "url": "https://x/y.png"}, {}, None),
        ({"type": "file", "file_id": "f"}, {}, None),
        ({"type": "base64", "media_type": "image/png", "data": PNG}, {"vision": False}, None),
    ],
)
def test_rule_A_20_images(source: dict[str, Any], facts: dict[str, Any], url: str | None) -> None:
    made = parts({"type": "image", "source": source}, facts=ModelFacts(**facts))
    if url is None:
        assert isinstance(made, str)
        assert "image omitted" in made
    else:
        assert made == [{"type": "image_url", "image_url": {"url": url}}]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"type": "text", "media_type": "text/plain", "data": "d"}, "[document: T]\nC\nd"),
        ({"type": "content", "content": "d"}, "[document: T]\nC\nd"),
        ({"type": "content", "content": [{"type": "text", "text": "d"}]}, "[document: T]\nC\nd"),
        ({"type": "base64", "media_type": "application/pdf", "data": "A" * 4096}, "[PDF document omitted: T, 3 kB]"),
        ({"type": "url", "url": "https://x"}, "[document omitted: T]"),
        ({"type": "file", "file_id": "x"}, "[document omitted: T]"),
    ],
)
def test_rule_A_21_documents(source: dict[str, Any], said: str) -> None:
    assert parts({"type": "document", "source": source, "title": "T", "context": "C"}) == said


def test_rule_A_22_search_results() -> None:
    block = {"type": "search_result", "title": "t", "source": "u", "content": [{"type": "text", "text": "c"}]}
    assert parts(block) == "t (u)\nc"


def test_rule_A_23_what_servers_executed_is_dropped() -> None:
    echoes = [
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "q"}},
        {"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"type": "web_search_result", "url": "u"}]},
        {"type": "text", "text": "found"},
    ]
    assert turns(("user", "q"), ("assistant", echoes), ("user", "r"))[1] == {"role": "assistant", "content": "found"}


@pytest.mark.parametrize(
    ("thinking", "signature", "reasoning"),
    [("t", "x", "t"), ("t", None, "t"), ("", seal("hidden"), "hidden"), ("", "cx1.!!", None), ("", None, None)],
)
def test_rule_A_24_thinking_comes_back(thinking: str, signature: str | None, reasoning: str | None) -> None:
    block = {"type": "thinking", "thinking": thinking, "signature": signature}
    made = turns(("user", "q"), ("assistant", [{"type": "text", "text": "a"}, block]), ("user", "r"))
    assert made[1].get("reasoning") == reasoning


@pytest.mark.parametrize(
    "kind", ["redacted_thinking", "container_upload", "compaction", "mcp_tool_use", "tool_reference"]
)
def test_rule_A_25_blocks_without_meaning_here_are_dropped(kind: str) -> None:
    assert turns(("user", [{"type": kind, "id": "x", "data": "y"}, {"type": "text", "text": "a"}]))[0]["content"] == "a"


def test_rule_A_26_an_unknown_block_says_what_text_it_has() -> None:
    assert parts({"type": "novelty", "text": "a"}) == "a"
    assert parts({"type": "novelty", "text": {"a": 1}}, {"type": "text", "text": "b"}) == "b"


@pytest.mark.parametrize(
    ("budget", "most", "sent"), [(2000, 32000, 2000), (31999, 32000, 31999), (50000, 32000, 31999), (5, 1, 1)]
)
def test_rule_A_30_A_34_a_budget_below_max_tokens(budget: int, most: int, sent: int) -> None:
    made = chat(THINKS, max_tokens=most, thinking={"type": "enabled", "budget_tokens": budget})
    assert made["thinking_token_budget"] == sent
    assert made["chat_template_kwargs"] == {"enable_thinking": True}
    assert "thinking_token_budget" not in chat(
        ModelFacts(reasoning=True), thinking={"type": "enabled", "budget_tokens": budget}
    )


@pytest.mark.parametrize(
    ("thinking", "effort", "sent", "display"),
    [
        ({"type": "adaptive"}, "low", "low", "shown"),
        ({"type": "adaptive"}, "ultra", "high", "shown"),
        ({"type": "adaptive"}, None, None, "shown"),
        ({"type": "between_tools"}, "max", "max", "shown"),
        ({"type": "new"}, 5, "high", "shown"),
        (None, "xhigh", "xhigh", "shown"),
        ({"type": "disabled"}, "high", "none", "hidden"),
        (None, None, "none", "hidden"),
        ("odd", None, "none", "hidden"),
    ],
)
def test_rule_A_31_A_32_how_much_to_think(thinking: Any, effort: Any, sent: str | None, display: str) -> None:
    made, context = both(THINKS, thinking=thinking, output_config={"effort": effort}, temperature=1)
    assert (made.get("reasoning_effort"), context.thinking) == (sent, display)
    assert made["chat_template_kwargs"]["enable_thinking"] is (display == "shown")


def test_rule_A_31_where_none_is_unknown_the_least_is_asked_for() -> None:
    made, context = both(ModelFacts(reasoning=True, thinking_toggle="low"), thinking={"type": "disabled"})
    assert (made["reasoning_effort"], context.thinking) == ("low", "hidden")
    assert "reasoning_effort" not in chat(ModelFacts(), thinking={"type": "disabled"})


@pytest.mark.parametrize(("display", "shown"), [("omitted", "omitted"), ("summarized", "shown"), (None, "shown")])
def test_rule_A_33_display(display: str | None, shown: str) -> None:
    assert both(THINKS, thinking={"type": "adaptive", "display": display})[1].thinking == shown


def test_rule_A_40_tools() -> None:
    listed = [
        {**TOOL, "type": "custom", "strict": True, "cache_control": {}, "input_examples": [], "defer_loading": True},
        {"name": "g", "input_schema": {"properties": {}}},
        {"name": "h"},
        {"type": "bash_20250124", "name": "bash"},
        {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool"},
        {"type": "memory_20250818", "name": "memory"},
        {"type": "computer_20250124", "name": "computer", "display_width_px": 1},
        {"type": "web_search_20250305", "name": "web_search"},
        {"type": "code_execution_20250825", "name": "code_execution"},
        {"type": "mcp_toolset", "mcp_server_name": "m"},
    ]
    functions = [tool["function"] for tool in chat(tools=listed)["tools"]]
    assert [f["name"] for f in functions] == [
        "f",
        "g",
        "h",
        "bash",
        "str_replace_based_edit_tool",
        "memory",
        "computer",
    ]
    assert functions[0] == {"name": "f", "description": "does f", "parameters": TOOL["input_schema"], "strict": True}
    assert all(f["parameters"]["type"] == "object" for f in functions)


@pytest.mark.parametrize("tools", [[], None, [{"type": "web_search_20250305", "name": "web_search"}]])
def test_rule_A_41_without_tools_no_choice(tools: Any) -> None:
    made = chat(tools=tools, tool_choice={"type": "any", "disable_parallel_tool_use": True})
    assert not {"tools", "tool_choice", "parallel_tool_calls"} & set(made)


def test_rule_A_42_schemas_pass_byte_for_byte() -> None:
    schema = (
        b'{"$schema":"https://json-schema.org/draft/2020-12/schema", "type":"object","properties":{"a":{"const":1.0}}}'
    )
    raw = json.dumps(body()).encode()[:-1] + b',"tools":[{"name":"f","input_schema":' + schema + b"}]}"
    assert schema in request(raw, ModelFacts()).body


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        ({"type": "auto"}, "auto"), ({"type": "any"}, "required"), ({"type": "none"}, "none"),
        ({"type": "odd"}, "auto"),
        ({"type": "tool", "name": "f"}, {"type": "function", "function": {"name": "f"}}),
    ],
)  # fmt: skip
def test_rule_A_43_choices(choice: dict[str, Any], sent: Any) -> None:
    made = chat(tools=[TOOL], tool_choice={**choice, "disable_parallel_tool_use": True})
    assert (made["tool_choice"], made["parallel_tool_calls"]) == (sent, False)
    assert made["tools"][0]["function"].get("strict") is (True if choice["type"] == "tool" else None)


@pytest.mark.parametrize("key", ["output_format", "output_config"])
def test_rule_A_44_structured_output(key: str) -> None:
    wanted: Any = {"type": "json_schema", "schema": {"type": "object", "properties": {}}}
    made = chat(
        PLAIN, tools=[{**TOOL, "strict": True}], **{key: {"format": wanted} if key == "output_config" else wanted}
    )
    assert made["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": wanted["schema"], "strict": True},
    }
    assert "strict" not in made["tools"][0]["function"]


@pytest.mark.parametrize(
    "schema",
    [{"type": "objekt"}, {"type": 5}, {"properties": []}, {"properties": {"a": {"pattern": 5}}}, {"anyOf": {}}, [], 5],
)
def test_rule_A_44_malformed_schemas_reach_no_grammar(schema: Any) -> None:
    assert "schema" in str(refused(output_config={"format": {"type": "json_schema", "schema": schema}}).param)


def test_rule_A_45_stops() -> None:
    assert chat(stop_sequences=["a", "", "a", "b"])["stop"] == ["a", "b"]
    assert "stop" not in chat(stop_sequences=[""])
    assert len(chat(stop_sequences=[str(n) for n in range(64)])["stop"]) == 64
    assert refused(stop_sequences=[str(n) for n in range(65)]).param == "stop_sequences"


def test_rule_A_46_sampling() -> None:
    made = chat(temperature=0, top_p=0.5, top_k=40)
    assert (made["temperature"], made["top_p"], made["top_k"]) == (0, 0.5, 40)
    assert "top_k" not in chat(top_k=0)


def test_rule_A_47_the_user_and_the_session_inside() -> None:
    inside = json.dumps({"device_id": "d", "account_uuid": "", "session_id": "s-1"})
    made, context = both(metadata={"user_id": inside})
    assert (made["user"], made["session_id"], context.session) == (inside, "s-1", "s-1")
    assert both(metadata={"user_id": "u"})[1].session == ""
    assert both(metadata={"user_id": 5})[1].session == both(metadata=[])[1].session == ""


def test_rule_A_48_a_prewarm_takes_one_token() -> None:
    made, context = both(max_tokens=0)
    assert (made["max_tokens"], context.prewarm) == (1, True)


def test_rule_A_49_cache_control_is_ignored_everywhere() -> None:
    mark = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    blocks = [{"type": "text", "text": "a", **mark}, {**IMAGE, **mark}]
    made = chat(PLAIN, system=[{"type": "text", "text": "s", **mark}], tools=[{**TOOL, **mark}],
                messages=[{"role": "user", "content": blocks}], **mark)  # fmt: skip
    assert "cache_control" not in json.dumps(made)


def test_rule_A_50_streams_ask_for_usage_all_along() -> None:
    made, context = both(stream=True)
    assert (made["stream"], context.stream) == (True, True)
    assert made["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
    assert "stream_options" not in chat()


def test_rule_A_51_nothing_of_anthropics_own_is_sent() -> None:
    fields = dict.fromkeys(["container", "mcp_servers", "service_tier", "inference_geo", "thinking", "fallbacks"], "x")
    made = chat(
        PLAIN, **fields, context_management={}, output_config={}, metadata={"user_id": "u"}, stop_sequences=["s"]
    )
    assert set(made) <= {"model", "messages", "max_tokens", "stop", "user"}


def test_rule_T_01_counting_needs_no_max_tokens() -> None:
    made = request(json.dumps({"model": "m", "messages": [{"role": "user", "content": "a"}], "tools": []}).encode(),
                   ModelFacts(), counting=True)  # fmt: skip
    assert json.loads(made.body) == {"model": "m", "messages": [{"role": "user", "content": "a"}]}

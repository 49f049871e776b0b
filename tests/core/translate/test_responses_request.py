"""rule R-01 to R-06, R-10, R-11: what a Responses request asks of the engine's chat completions."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from cortex_core.errors import CortexError, Dialect, render
from cortex_core.fleet import ModelFacts
from cortex_core.translate import opaque
from cortex_core.translate.responses import count, request
from tests.support.responses import FACTS, USER, translated

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(16)).decode()
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
NAMED = {"name": "n", "schema": SCHEMA, "strict": True}


def messages(*items: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = translated(input=list(items), **fields)[0]["messages"]
    return found


def message(role: str, *content: dict[str, Any]) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": list(content)}


def text(value: str, kind: str = "input_text") -> dict[str, Any]:
    return {"type": kind, "text": value}


def function_call(call_id: str, name: str = "f", arguments: Any = "{}", **fields: Any) -> dict[str, Any]:
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments, **fields}


def output(call_id: str, value: Any, kind: str = "function_call_output") -> dict[str, Any]:
    return {"type": kind, "call_id": call_id, "output": value}


def refused(**fields: Any) -> CortexError:
    with pytest.raises(CortexError) as caught:
        translated(**fields)
    return caught.value


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ({"role": "user", "content": "hi"}, {"role": "user", "content": "hi"}),  # an easy message (opencode)
        (message("user", text("hi")), {"role": "user", "content": "hi"}),
        (message("user", text("a"), text("b")), {"role": "user", "content": [text("a", "text"), text("b", "text")]}),
        (message("assistant", text("a", "output_text")), {"role": "assistant", "content": "a"}),
        (message("assistant", {"type": "refusal", "refusal": "no"}), {"role": "assistant", "content": "no"}),
        (message("user", {"type": "never_seen", "text": "x"}), {"role": "user", "content": "x"}),
        ({**message("user", text("hi")), "id": "msg_1", "status": "completed"}, {"role": "user", "content": "hi"}),
    ],
)  # fmt: skip
def test_rule_R_01_messages(item: dict[str, Any], expected: dict[str, Any]) -> None:
    assert messages(item)[0] == expected


def test_rule_R_01_a_string_is_the_users() -> None:
    assert translated(input="hello")[0]["messages"] == [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize(
    "kind",
    ["web_search_call", "file_search_call", "computer_call", "mcp_call", "image_generation_call", "local_shell_call",
     "compaction", "never_seen"],
)  # fmt: skip
def test_rule_R_01_items_of_hosted_services_are_left_out(kind: str) -> None:
    assert messages({"type": kind, "id": "x", "action": {}}, *USER) == USER


def test_rule_R_01_images_and_files() -> None:
    url = f"data:image/jpeg;base64,{PNG}"
    parts = [
        {"type": "input_image", "image_url": url, "detail": "auto"},
        {"type": "input_image", "image_url": "https://x/y.png"},
        {"type": "input_file", "filename": "a.txt", "file_data": "data:text/plain;base64,aGk="},
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,aGk="},
    ]
    kinds = messages(message("user", *parts))[0]["content"]
    assert kinds[0]["image_url"]["url"] == f"data:image/png;base64,{PNG}"  # the type that it has
    assert kinds[1]["image_url"]["url"] == "https://x/y.png"
    assert kinds[2]["text"] == "a.txt\nhi"
    assert "a.pdf" in kinds[3]["text"]


def test_rule_R_01_a_model_without_vision_is_told_so() -> None:
    item = message("user", {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"})
    body = json.dumps({"model": "m", "input": [item]}).encode()
    sent = json.loads(request(body, ModelFacts(vision=False)).body)
    assert "no vision" in sent["messages"][0]["content"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0"),
        ({"input": ["x"]}, "input.0"),
        ({"input": [{"role": "robot", "content": ""}]}, "input.0.role"),
        ({"input": [function_call("", "f")]}, "input.0.call_id"),
        ({"input": [function_call("c", "")]}, "input.0.name"),
        ({"input": [message("user", {"type": "input_text", "text": 5})]}, "input.0.content.0.text"),
        ({"input": []}, "input"),
        ({"input": None}, "input"),
        ({"input": 5}, "input"),
        ({"model": ""}, "model"),
        ({"model": None}, "model"),
        ({"stream": "yes"}, "stream"),
        ({"tools": [{"type": "function"}]}, "tools.0.name"),
        ({"tools": [{"type": "function", "name": "f", "parameters": []}]}, "tools.0.parameters"),
        ({"tools": {}}, "tools"),
        ({"tools": [{"type": "namespace", "name": "n", "tools": [5]}]}, "tools.0.tools.0"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "name": "f"}}, "tool_choice"),
        ({"temperature": "hot"}, "temperature"),
        ({"max_output_tokens": 1.5}, "max_output_tokens"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
    ],
)
def test_rule_E_07_a_refusal_names_the_field(fields: dict[str, Any], param: str) -> None:
    error = refused(**fields)
    assert error.kind == "bad_request"
    assert error.param == param
    assert f"`{param}`" in error.message


def test_rule_R_02_one_assistant_message_between_two_words_of_others() -> None:
    found = messages(
        *USER,
        {"type": "reasoning", "summary": [], "content": [text("one", "reasoning_text")]},
        message("assistant", text("so", "output_text")),
        function_call("c1", arguments='{"a":1}'),
        {"type": "reasoning", "summary": [], "content": [text("two", "reasoning_text")]},
        function_call("c2", arguments={"b": 2}),
        output("c2", "second"),
        output("c1", [text("first"), text("lines")]),
        message("assistant", text("done", "output_text")),
    )
    assert [one["role"] for one in found] == ["user", "assistant", "tool", "tool", "assistant"]
    turn = found[1]
    assert turn["content"] == "so"
    assert turn["reasoning"] == "one\n\ntwo"
    calls = [(one["id"], one["function"]["arguments"]) for one in turn["tool_calls"]]
    assert calls == [("c1", '{"a":1}'), ("c2", '{"b":2}')]
    assert [one["content"] for one in found[2:4]] == ["first\nlines", "second"]  # in the order of the calls


def test_rule_R_02_images_of_results_follow_the_results() -> None:
    image = {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"}
    found = messages(function_call("c1"), function_call("c2"), output("c1", [text("seen"), image]), output("c2", "x"))
    assert [one["role"] for one in found] == ["assistant", "tool", "tool", "user"]
    assert "c1" in found[3]["content"][0]["text"]
    assert found[3]["content"][1]["type"] == "image_url"


def test_rule_R_03_instructions_lead() -> None:
    found = messages({"role": "developer", "content": "two"}, *USER, instructions="one")
    assert found == [{"role": "system", "content": "one\n\ntwo"}, *USER]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"max_output_tokens": 9}, {"max_completion_tokens": 9}),
        ({"max_output_tokens": 0}, {}),
        ({"temperature": 0, "top_p": 0.5}, {"temperature": 0, "top_p": 0.5}),
        ({"reasoning": {"effort": "low", "summary": "auto"}}, {"reasoning_effort": "low"}),
        ({"reasoning": {"effort": "ultra"}}, {"reasoning_effort": "high"}),
        ({"reasoning": {"effort": "none"}}, {"reasoning_effort": "none"}),
        ({"reasoning": 5}, {}),
        ({"text": {"verbosity": "low"}}, {}),
        ({"text": {"format": {"type": "text"}}}, {}),
        ({"text": {"format": {"type": "json_object"}}}, {"response_format": {"type": "json_object"}}),
        (
            {"text": {"format": {"type": "json_schema", **NAMED}}},
            {"response_format": {"type": "json_schema", "json_schema": NAMED}},
        ),
        ({"include": ["message.output_text.logprobs"], "top_logprobs": 2}, {"logprobs": True, "top_logprobs": 2}),
        ({"truncation": "auto", "store": True, "service_tier": "fast", "include": ["x.y"], "client_metadata": {},
          "metadata": {"a": "b"}, "stream_options": {"include_obfuscation": False}, "safety_identifier": "s",
          "never_seen": [1e3], "conversation": None, "previous_response_id": None}, {}),
        ({"tool_choice": "auto", "parallel_tool_calls": True}, {}),  # without tools
        ({"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}),
    ],
)  # fmt: skip
def test_rule_R_05_fields(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    assert translated(**fields)[0] == {"model": "m", "messages": USER, **expected}


def test_rule_R_05_previous_response_id_is_not_found() -> None:
    """fixture 43: the code that clients know, so that they send the whole conversation."""
    error = refused(previous_response_id="resp_0")
    rendered = render(error, Dialect.OPENAI_RESPONSES)
    assert rendered.status == 400
    inner = json.loads(rendered.body)["error"]
    assert (inner["code"], inner["param"]) == ("previous_response_not_found", "previous_response_id")


@pytest.mark.parametrize(("name", "value"), [("background", True), ("conversation", "c"), ("prompt", {"id": "p"})])
def test_rule_R_05_what_needs_a_memory_is_refused(name: str, value: Any) -> None:
    assert refused(**{name: value}).param == name


@pytest.mark.parametrize(
    ("item", "thought"),
    [
        ({"content": [text("clear", "reasoning_text")], "encrypted_content": opaque.seal("sealed")}, "clear"),
        ({"encrypted_content": opaque.seal("sealed"), "summary": [text("short", "summary_text")]}, "sealed"),
        ({"encrypted_content": "gAAAA-of-others", "summary": [text("short", "summary_text")]}, "short"),
    ],
)
def test_rule_R_06_reasoning_comes_back(item: dict[str, Any], thought: str) -> None:
    found = messages(*USER, {"type": "reasoning", "id": "rs_1", **item}, function_call("c"), output("c", ""))
    assert found[1]["reasoning"] == thought


def test_rule_R_06_reasoning_that_nobody_can_read_is_left_out() -> None:
    assert messages({"type": "reasoning", "encrypted_content": "gAAAA", "summary": []}, *USER) == USER


def test_rule_R_10_counting_sends_what_makes_the_prompt() -> None:
    body = {"model": "m", "input": "hi", "tools": [{"type": "function", "name": "f"}], "max_output_tokens": 4}
    made = request(json.dumps({**body, "stream": True}).encode(), FACTS, counting=True)
    assert json.loads(made.body).keys() == {"model", "messages", "tools"}
    assert json.loads(count(7)) == {"object": "response.input_tokens", "input_tokens": 7}


def test_rule_R_11_fixture_38_what_codex_sends() -> None:
    """fixture 38: two developer messages, no instructions, a namespace and a hosted tool."""
    sent, context = translated(
        input=[
            message("developer", text("permissions")),
            message("developer", text("skills")),
            message("user", text("environment")),
            message("user", text("do it")),
        ],
        tools=[
            {"type": "function", "name": "exec", "description": "d", "strict": False, "parameters": SCHEMA},
            {"type": "namespace", "name": "multi_agent_v1", "description": "d", "tools": [
                {"type": "function", "name": "spawn_agent", "strict": False, "parameters": SCHEMA}]},
            {"type": "web_search", "external_web_access": True},
        ],
        tool_choice="auto", parallel_tool_calls=True, reasoning={"summary": "auto"}, store=False, stream=True,
        include=["reasoning.encrypted_content"], prompt_cache_key="k", client_metadata={"x": "y"},
    )  # fmt: skip
    assert [one["role"] for one in sent["messages"]] == ["system", "user"]
    assert sent["messages"][0]["content"] == "permissions\n\nskills"
    assert [tool["function"]["name"] for tool in sent["tools"]] == ["exec", "multi_agent_v1__spawn_agent"]
    assert sent["tool_choice"] == "auto"
    assert sent["parallel_tool_calls"] is True
    assert context.encrypted
    assert context.session == sent["session_id"] == "k"  # rule 29: what keeps a conversation on one replica
    assert context.stream


def test_rule_H_07_lone_surrogates_become_replacement_characters() -> None:
    """fixture 30."""
    body = b'{"model":"m","input":"a\\ud83d b \\u0000 \\ud83d\\ude00"}'
    assert json.loads(request(body, FACTS).body)["messages"][0]["content"] == "a\ufffd b \0 \U0001f600"

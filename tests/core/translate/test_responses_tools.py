"""rule R-04: tools as functions, and the calls back under the client's own names."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex_core.translate.responses.tools import MAX_NAME, custom_arguments, custom_input
from tests.support import chunks
from tests.support.chunks import call, end
from tests.support.responses import said, translated, whole

SCHEMA = {"type": "object", "properties": {"z": {"type": "number"}, "a": {"const": 1e3}}, "$schema": "x"}


def function(name: str, **fields: Any) -> dict[str, Any]:
    return {"type": "function", "name": name, "parameters": SCHEMA, **fields}


def namespace(name: str, *tools: dict[str, Any]) -> dict[str, Any]:
    return {"type": "namespace", "name": name, "description": "d", "tools": list(tools)}


CUSTOM = {"type": "custom", "name": "patch", "description": "d",
          "format": {"type": "grammar", "syntax": "lark", "definition": "start: X"}}  # fmt: skip


def names(*tools: dict[str, Any]) -> list[str]:
    sent = translated(tools=list(tools))[0]
    return [tool["function"]["name"] for tool in sent.get("tools", [])]


def test_rule_R_04_functions_are_nested() -> None:
    sent, _ = translated(tools=[function("f", description="d", strict=True), function("g", strict=False)])
    assert sent["tools"] == [
        {"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA, "strict": True}},
        {"type": "function", "function": {"name": "g", "parameters": SCHEMA}},
    ]


@pytest.mark.parametrize(
    "kind",
    ["web_search", "web_search_preview", "file_search", "code_interpreter", "image_generation", "mcp", "computer",
     "local_shell", "tool_search", "apply_patch", "shell", "never_seen"],
)  # fmt: skip
def test_rule_R_04_hosted_tools_are_left_out(kind: str) -> None:
    """With nothing left there is no tool_choice either: engines refuse one without tools."""
    sent, _ = translated(tools=[{"type": kind, "name": "x"}], tool_choice={"type": kind}, parallel_tool_calls=True)
    assert not sent.keys() & {"tools", "tool_choice", "parallel_tool_calls"}
    sent, _ = translated(tools=[{"type": kind}, function("f")], tool_choice={"type": kind})
    assert sent["tool_choice"] == "auto"


def test_rule_R_04_namespaces_are_joined_and_told_apart() -> None:
    """Plain names keep theirs, long ones fit, and no two are the same."""
    long = "n" * 60
    found = names(
        namespace("a", function("b__c"), function("f")),
        namespace("a__b", function("c")),
        function("a__f"),
        namespace(long, function("one"), function("two")),
    )
    assert found[0] == "a__b__c"
    assert found[3] == "a__f"
    assert len(set(found)) == len(found) == 6
    assert max(map(len, found)) <= MAX_NAME


def test_rule_R_04_fixture_40_namespace_round_trip() -> None:
    """Out under the joined name, back as name and namespace, and echoed under the joined name again."""
    tools = [namespace("multi", function("spawn")), function("multi__spawn")]
    sent, context = translated(tools=tools)
    joined = sent["tools"][0]["function"]["name"]
    for answer in (
        said(call(0, '{"z":1}', name=joined, id="c1"), end("tool_calls"), context=context).final,
        whole({"tool_calls": [chunks.function("c1", joined, '{"z":1}')]}, context=context),
    ):
        (item,) = answer["output"]
        assert (item["name"], item["namespace"], item["arguments"]) == ("spawn", "multi", '{"z":1}')
        assert item["type"] == "function_call"
        again, _ = translated(
            tools=tools, input=[item, {"type": "function_call_output", "call_id": "c1", "output": ""}]
        )
        assert again["messages"][0]["tool_calls"][0]["function"] == {"name": joined, "arguments": '{"z":1}'}


def test_rule_R_04_fixture_41_custom_round_trip() -> None:
    """Free text as the one string of a function, and back, with its own events."""
    sent, context = translated(tools=[CUSTOM])
    made = sent["tools"][0]["function"]
    assert "start: X" in made["description"]
    assert list(made["parameters"]["properties"]) == ["input"]
    text = '*** Begin "Patch"\n\\ud83d\n+é'
    arguments = custom_arguments(text)
    read = said(
        call(0, arguments[:9], name="patch", id="c1"), call(0, arguments[9:]), end("tool_calls"), context=context
    )
    (item,) = read.ran
    assert (item["type"], item["name"], item["input"], item["call_id"]) == ("custom_tool_call", "patch", text, "c1")
    assert read.kinds[2:-1] == [
        "output_item.added", "custom_tool_call_input.delta", "custom_tool_call_input.done", "output_item.done",
    ]  # fmt: skip
    result = {"type": "custom_tool_call_output", "call_id": "c1", "output": "ok"}
    again, _ = translated(tools=[CUSTOM], input=[item, result])
    assert custom_input(again["messages"][0]["tool_calls"][0]["function"]["arguments"]) == text
    assert again["messages"][1] == {"role": "tool", "tool_call_id": "c1", "content": "ok"}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [('{"input":"x"}', "x"), ('{"patch":"x"}', "x"), ('"x"', "x"), ('{"a":1,"b":2}', '{"a":1,"b":2}'), ("x", "x")],
)
def test_rule_R_04_models_are_inventive_with_custom_tools(arguments: str, text: str) -> None:
    assert custom_input(arguments) == text


@given(st.text())
def test_rule_R_04_custom_input_survives(text: str) -> None:
    assert custom_input(custom_arguments(text)) == text


@pytest.mark.parametrize(
    ("choice", "expected", "left"),
    [
        ("required", "required", ["f", "n__g"]),
        ("none", "none", ["f", "n__g"]),
        ({"type": "function", "name": "f"}, {"type": "function", "function": {"name": "f"}}, ["f", "n__g"]),
        (
            {"type": "function", "name": "g", "namespace": "n"},
            {"type": "function", "function": {"name": "n__g"}},
            ["f", "n__g"],
        ),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}]},
            "required",
            ["f"],
        ),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "web_search"}]}, None, []),
    ],
)
def test_rule_R_05_tool_choice(choice: Any, expected: Any, left: list[str]) -> None:
    sent, _ = translated(tools=[function("f"), namespace("n", function("g"))], tool_choice=choice)
    assert sent.get("tool_choice") == expected
    assert [tool["function"]["name"] for tool in sent.get("tools", [])] == left


def test_rule_R_05_a_forced_function_is_strict() -> None:
    sent, _ = translated(tools=[function("f"), function("g")], tool_choice={"type": "function", "name": "g"})
    assert [tool["function"].get("strict") for tool in sent["tools"]] == [None, True]


def test_rule_R_05_a_format_forbids_strict_tools() -> None:
    format_ = {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}}
    sent, _ = translated(tools=[function("f", strict=True)], text=format_)
    assert "strict" not in sent["tools"][0]["function"]


def test_rule_R_04_a_hundred_tools_keep_their_bytes() -> None:
    """fixture 32."""
    sent, _ = translated(tools=[function(f"f{n}") for n in range(100)])
    assert [tool["function"]["name"] for tool in sent["tools"]] == [f"f{n}" for n in range(100)]
    assert all(list(tool["function"]["parameters"]) == list(SCHEMA) for tool in sent["tools"])

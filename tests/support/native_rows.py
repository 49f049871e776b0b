# ruff: noqa: E501 - a row is a line
"""What vLLM's own Messages and Responses refuse or damage (protocol 1.2 and 1.3), as requests of ordinary clients.

A row is (its number, fields of the body, what the engine must be told, what it must not be told).
"""

from __future__ import annotations

from typing import Any

Row = tuple[str, dict[str, Any], tuple[str, ...], tuple[str, ...]]

SCHEMA: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"name": "get_weather", "description": "The weather of a city.", "input_schema": SCHEMA}
PNG = "iVBORw0KGgo="
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
PDF = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0xLjQ="}}
ASK = {"role": "user", "content": "Who are you?"}


def user(*blocks: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(blocks)}]}


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def used(*names: str) -> dict[str, Any]:
    uses = [{"type": "tool_use", "id": name, "name": "get_weather", "input": {"city": name}} for name in names]
    return {"role": "assistant", "content": uses}


def loop(*results: dict[str, Any], after: tuple[Any, ...] = ()) -> dict[str, Any]:
    """A turn with one result for each call."""
    names = [f"call{number}" for number in range(len(results))]
    blocks = [{"type": "tool_result", "tool_use_id": n, **r} for n, r in zip(names, results, strict=True)]
    return {"tools": [TOOL], "messages": [ASK, used(*names), {"role": "user", "content": [*blocks, *after]}]}


MESSAGES: tuple[Row, ...] = (
    ("V1-document", user({"type": "document", "title": "T", "source": {"type": "text", "media_type": "text/plain", "data": "inner"}}), ("[document: T]\\ninner",), ()),
    ("V1-pdf", loop({"content": "read"}, after=(PDF,)), ("PDF document",), ("JVBERi0",)),
    ("V1-search_result", user({"type": "search_result", "title": "S", "source": "u", "content": [text("found")]}), ("S (u)\\nfound",), ()),
    ("V1-server_tool_use", {"messages": [ASK, {"role": "assistant", "content": [{"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}, {"type": "web_search_tool_result", "tool_use_id": "s", "content": []}, text("So")]}, ASK]}, ('"So"',), ("web_search",)),
    ("V1-container_upload", user({"type": "container_upload", "file_id": "f"}, text("And?")), ("And?",), ("container",)),
    ("V1-unknown", user({"type": "unheard-of", "text": "still said"}, {"type": "unheard-of"}), ("still said",), ("unheard-of",)),
    ("V2-server", {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, (), ("web_search", '"tools"')),
    ("V2-client", {"tools": [{"type": "bash_20250124", "name": "bash"}, TOOL]}, ('"name":"bash"', '"command"', "get_weather"), ()),
    ("V3", loop({"content": [text("one"), IMAGE]}, {"content": "two"}), ('"two"},{"role":"user"', "image"), ()),
    ("V4", loop({"content": "no such city", "is_error": True}), ("Error: no such city",), ()),
    ("V5", loop({"content": [{"type": "document", "source": {"type": "text", "data": "inside"}}]}), ("inside",), ()),
    ("V6", {"messages": [ASK, {"role": "assistant", "content": "I am"}]}, ('"continue_final_message":true',), ()),
    ("V7", {"system": [text("one"), text("two")]}, ("one\\n\\ntwo",), ("onetwo",)),
    ("V8", {"system": "lead", "messages": [ASK, {"role": "assistant", "content": "Hm"}, {"role": "system", "content": "late"}, ASK]}, ('{"role":"system","content":"lead"}', "late"), ("lead\\n\\nlate",)),
    ("V9", {"messages": [ASK, ASK]}, ('{"role":"user","content":[{"type":"text","text":"Who are you?"},{"type":"text","text":"Who are you?"}]}',), ()),
    ("V10", {"tools": [TOOL], "messages": [ASK, {"role": "assistant", "content": [{"type": "thinking", "thinking": "A", "signature": "s"}, text("x"), {"type": "thinking", "thinking": "B", "signature": "s"}]}, ASK]}, ('"reasoning":"A\\n\\nB"',), ("AB",)),
    ("V11", {"messages": [ASK, {"role": "assistant", "content": []}, ASK]}, (), ()),
    ("V12-stops", {"stop_sequences": [f"stop{number}" for number in range(20)]}, ("stop19",), ()),
    ("V12-no-tokens", {"max_tokens": 0}, ('"max_tokens":1}',), ()),
    ("V12-budget", {"thinking": {"type": "enabled", "budget_tokens": 5}}, (), ()),
    ("V12-budget-over", {"thinking": {"type": "enabled", "budget_tokens": 31999}, "max_tokens": 50}, (), ()),
    ("V12-effort", {"output_config": {"effort": "ultra"}, "thinking": {"type": "between_tools"}}, (), ("ultra", "between")),
    ("V13", user({"type": "image", "source": {"type": "file", "file_id": "f1"}}), ("omitted",), ("data:image",)),
    ("V26", {"tools": [{**TOOL, "strict": True}], "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}, ("json_schema",), ('"parameters":{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]},"strict"',)),
    ("V27-omitted", {"thinking": {"type": "adaptive", "display": "omitted"}}, (), ()),
)  # fmt: skip


def item(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": kind, **fields}


def turn(*items: Any) -> dict[str, Any]:
    return {"input": [*items, {"role": "user", "content": "Who are you?"}]}


RESPONSES: tuple[Row, ...] = (
    ("encrypted", turn(item("reasoning", summary=[], encrypted_content="gAAAA-somebody-elses")), ("Who are you?",), ("gAAAA",)),
    ("grammar", {"tools": [item("custom", name="patch", format={"type": "grammar", "syntax": "lark", "definition": "start: X"})]}, ('"name":"patch"', "start: X"), ()),
    ("unknown-item", turn(item("unheard-of", text="x"), item("compaction", encrypted_content="x")), ("Who are you?",), ("unheard-of", "compaction")),
    ("unknown-tool", {"tools": [item("unheard-of"), item("web_search"), item("mcp", server_label="m")]}, (), ('"tools"',)),
    ("include", {"include": ["web_search_call.action.sources", "anything"], "service_tier": "fast"}, (), ("fast",)),
    ("file", turn(item("message", role="user", content=[item("input_file", filename="a.txt", file_data="data:text/plain;base64,aGVsbG8=")])), ("hello",), ("aGVsbG8",)),
    ("contents", turn(item("message", role="user", content=[item("input_text", text="one"), item("input_text", text="two")])), ("one", "two"), ()),
    ("namespaces", {"tools": [item("namespace", name="ns", tools=[item("function", name="go", parameters=SCHEMA)])]}, ('"name":"ns__go"',), ("namespace",)),
    ("developers", turn(item("message", role="developer", content="a"), item("message", role="developer", content="b")), ("a\\n\\nb",), ()),
)  # fmt: skip

REFUSED: tuple[tuple[str, dict[str, Any], str | None, str], ...] = (
    ("previous", {"previous_response_id": "resp_1"}, "previous_response_not_found", "previous_response_id"),
    ("no-input", {"input": None}, None, "input"),
    ("prompt", {"prompt": {"id": "p"}}, None, "prompt"),
    ("item_reference", turn(item("item_reference", id="x")), None, "input.0"),
    ("background", {"background": True}, None, "background"),
    ("conversation", {"conversation": "c"}, None, "conversation"),
)
"""Of Responses: what needs a memory, or nothing to answer. (number, fields, code, param)."""

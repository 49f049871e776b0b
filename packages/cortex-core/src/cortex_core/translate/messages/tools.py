"""Anthropic tools as functions (A-40 to A-44).

Tools that Anthropic executes on its servers are dropped, since nobody would execute them here; those that the client
executes but whose schema the model is trained on get a schema.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
from msgspec import Raw, Struct

from cortex_core.dialects.body import absent, bad, encode, starts, typed
from cortex_core.translate.schema import check


class Tool(Struct):
    type: Any = None
    name: Any = None
    description: Any = None
    input_schema: Raw = Raw()
    strict: Any = None


class Change(Struct):
    """A tool_addition or tool_removal: by name, or by value."""

    name: Any = None
    definition: Raw = Raw()


class Choice(Struct):
    type: str
    name: Any = None
    disable_parallel_tool_use: Any = None


_tools = msgspec.json.Decoder(list[Tool]).decode
_tool = msgspec.json.Decoder(Tool).decode
_change = msgspec.json.Decoder(Change).decode
_choice = msgspec.json.Decoder(Choice).decode
_object = msgspec.json.Decoder(dict[str, Raw]).decode

_TEXT = {"type": "string"}
_POINT = {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2}


def _schema(required: str, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required.split()}


def _commands(names: str, **properties: Any) -> dict[str, Any]:
    return _schema("command", command={"type": "string", "enum": names.split()}, **properties)


# What the client-executed tools take (Anthropic's documentation of each).
_EDIT = {
    "path": _TEXT, "file_text": _TEXT, "old_str": _TEXT, "new_str": _TEXT, "insert_line": {"type": "integer"},
    "insert_text": _TEXT, "view_range": _POINT,
}  # fmt: skip
_CLIENT_EXECUTED: dict[str, tuple[str, dict[str, Any]]] = {
    "bash": ("Run commands in a bash shell.", _schema("", command=_TEXT, restart={"type": "boolean"})),
    "text_editor": (
        "View, create and edit text files.",
        {**_commands("view create str_replace insert undo_edit", **_EDIT), "required": ["command", "path"]},
    ),
    "computer": (
        "Use a mouse and keyboard to interact with a computer, and take screenshots.",
        _schema("action", action=_TEXT, coordinate=_POINT, start_coordinate=_POINT, text=_TEXT,
                duration={"type": "number"}, scroll_direction=_TEXT, scroll_amount={"type": "integer"}),
    ),
    "memory": (
        "Read and write files of a persistent memory.",
        _commands("view create str_replace insert delete rename", **_EDIT, old_path=_TEXT, new_path=_TEXT),
    ),
}  # fmt: skip
_VERSION = re.compile(r"_\d{8}$")


def functions(raw: Raw | None, changes: list[tuple[str, Raw]]) -> list[dict[str, Any]]:
    """The tools in effect at the end of the conversation, as chat tools.

    Raises:
        CortexError: bad_request, naming the field.
    """
    listed = [] if raw is None or absent(raw) else typed(raw, _tools, "tools")
    made = [_function(tool, f"tools.{number}") for number, tool in enumerate(listed)]
    named = {tool["function"]["name"]: tool for tool in made if tool is not None}
    removed: set[str] = set()
    for kind, what in changes:
        change = _change(what) if not absent(what) and starts(what) == b"{" else Change()
        name = change.name
        if not absent(change.definition):
            tool = _function(typed(change.definition, _tool, "messages"), "messages")
            if tool is not None:
                name = tool["function"]["name"]
                named[name] = tool
        if isinstance(name, str):
            (removed.add if kind == "tool_removal" else removed.discard)(name)
    return [tool for name, tool in named.items() if name not in removed]


def _function(tool: Tool, where: str) -> dict[str, Any] | None:
    kind = tool.type if isinstance(tool.type, str) else "custom"
    known = _CLIENT_EXECUTED.get(_VERSION.sub("", kind))
    if known is not None:
        name = tool.name if isinstance(tool.name, str) else _VERSION.sub("", kind)
        return {"type": "function", "function": {"name": name, "description": known[0], "parameters": known[1]}}
    if kind != "custom" and absent(tool.input_schema):
        return None  # executed by Anthropic's servers, or of a kind that nobody here knows
    if not isinstance(tool.name, str) or not tool.name:
        raise bad(f"{where}.name", "is required")
    function: dict[str, Any] = {"name": tool.name}
    if isinstance(tool.description, str) and tool.description:
        function["description"] = tool.description
    function["parameters"] = _parameters(tool.input_schema, f"{where}.input_schema")
    if tool.strict is True:
        check(tool.input_schema, f"{where}.input_schema")
        function["strict"] = True
    return {"type": "function", "function": function}


def _parameters(raw: Raw, where: str) -> Any:
    """A schema, its bytes untouched: the template shows the model what the client wrote."""
    if absent(raw):
        return {"type": "object", "properties": {}}
    if starts(raw) != b"{":
        raise bad(where, "must be an object")
    values = typed(raw, _object, where)
    return raw if "type" in values else {"type": "object", **values}


def choose(body: dict[str, Any], raw: Raw | None) -> None:
    """tool_choice, into a body that has tools."""
    if raw is None or absent(raw) or starts(raw) != b"{":
        return
    choice = typed(raw, _choice, "tool_choice")
    if choice.disable_parallel_tool_use is True:
        body["parallel_tool_calls"] = False
    match choice.type:
        case "any":
            body["tool_choice"] = "required"
        case "none":
            body["tool_choice"] = "none"
        case "tool":
            if not isinstance(choice.name, str) or not choice.name:
                raise bad("tool_choice.name", "is required")
            forced = [tool for tool in body["tools"] if tool["function"]["name"] == choice.name]
            if not forced:
                raise bad("tool_choice.name", "is not among the tools")
            body["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
            check(Raw(encode(forced[0]["function"]["parameters"])), "tools")
            forced[0]["function"]["strict"] = True  # without it the engine does not constrain the arguments
        case _:
            body["tool_choice"] = "auto"

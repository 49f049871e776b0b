"""Tools of a chat request, as engines take them: functions only, and a choice only beside them (C-02, C-03).

Custom tools, whose input is free text, become functions with one string, and the answer's calls become custom again.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw, Struct

from cortex_core.dialects.body import absent, bad, encode, loads, starts, typed
from cortex_core.translate.schema import check


class _Function(Struct):
    name: str
    description: Any = None
    parameters: Raw = Raw()
    strict: Any = None


class _Tool(Struct):
    type: str = "function"
    function: Raw = Raw()
    custom: Raw = Raw()


class _Named(Struct):
    name: str


class _Allowed(Struct):
    mode: str = "auto"
    tools: list[_Tool] = []


class _Choice(Struct):
    type: str = "function"
    function: Raw = Raw()
    custom: Raw = Raw()
    allowed_tools: Raw = Raw()


_list = msgspec.json.Decoder(list[Raw]).decode
_functions = msgspec.json.Decoder(list[_Function]).decode
_function = msgspec.json.Decoder(_Function).decode
_tool = msgspec.json.Decoder(_Tool).decode
_named = msgspec.json.Decoder(_Named).decode
_choice = msgspec.json.Decoder(_Choice).decode
_allowed = msgspec.json.Decoder(_Allowed).decode

KEYS = frozenset({"tools", "tool_choice", "parallel_tool_calls", "functions", "function_call"})
"""Without any of them there is nothing to normalise."""

SHIM = {
    "type": "object",
    "properties": {"input": {"type": "string", "description": "the tool's whole input"}},
    "required": ["input"],
}


class Tools(Struct, frozen=True):
    """What the answer's translation needs of the tools."""

    custom: frozenset[str] = frozenset()  # names of custom tools
    legacy: bool = False  # they came as `functions`, and calls go back as `function_call`


def normalise(values: dict[str, Raw]) -> Tools:
    """Rewrites `tools`, `tool_choice`, `functions` and `function_call` where that is needed.

    Raises:
        CortexError: bad_request, naming the field.
    """
    legacy = _legacy(values)
    listed = [] if absent(values.get("tools")) else typed(values["tools"], _list, "tools")
    custom: set[str] = set()
    kept: dict[str, Raw] = {}
    changed = False
    for number, raw in enumerate(listed):
        made = _one(raw, f"tools.{number}", custom)
        changed = changed or made is None or made[1] is not raw
        if made is not None:
            kept[made[0]] = made[1]
    choice = values.get("tool_choice")
    if kept and choice is not None and starts(choice) == b"{":
        names = _choose(values, choice, set(kept))
        changed = changed or names != set(kept)
        kept = {name: raw for name, raw in kept.items() if name in names}
    if not kept:
        for key in ("tools", "tool_choice", "parallel_tool_calls"):
            values.pop(key, None)
    elif changed or len(kept) != len(listed):
        values["tools"] = Raw(encode(list(kept.values())))
    return Tools(frozenset(custom), legacy)


def _legacy(values: dict[str, Raw]) -> bool:
    """`functions` and `function_call`, of 2023, as tools."""
    functions, choice = values.pop("functions", None), values.pop("function_call", None)
    if functions is None or absent(functions) or not absent(values.get("tools")):
        return False
    typed(functions, _functions, "functions")
    tools = [{"type": "function", "function": raw} for raw in typed(functions, _list, "functions")]
    if not tools:
        return False
    values["tools"] = Raw(encode(tools))
    if choice is not None and not absent(choice):
        named = starts(choice) == b"{"
        values["tool_choice"] = Raw(encode({"type": "function", "function": choice})) if named else choice
    return True


def _one(raw: Raw, where: str, custom: set[str]) -> tuple[str, Raw] | None:
    """A tool's name and what the engine gets; None: nobody here can execute it."""
    tool = typed(raw, _tool, where)
    if tool.type == "custom":
        if absent(tool.custom):
            raise bad(f"{where}.custom", "is required")
        named = typed(tool.custom, _function, f"{where}.custom")
        custom.add(named.name)
        function: dict[str, Any] = {"name": named.name, "parameters": SHIM}
        if isinstance(named.description, str):
            function["description"] = named.description
        return named.name, Raw(encode({"type": "function", "function": function}))
    if tool.type != "function":
        return None
    if absent(tool.function):
        raise bad(f"{where}.function", "is required")
    said = typed(tool.function, _function, f"{where}.function")
    if not said.name:
        raise bad(f"{where}.function.name", "is required")
    if not absent(said.parameters):
        if starts(said.parameters) != b"{":
            raise bad(f"{where}.function.parameters", "must be an object")
        if said.strict is True:
            check(said.parameters, f"{where}.function.parameters")
    return said.name, raw


def _choose(values: dict[str, Raw], raw: Raw, names: set[str]) -> set[str]:
    """Which tools are left by a choice, which becomes one that engines know."""
    choice = typed(raw, _choice, "tool_choice")
    if choice.type == "allowed_tools":
        inner = raw if absent(choice.allowed_tools) else choice.allowed_tools
        allowed = typed(inner, _allowed, "tool_choice.allowed_tools")
        listed = {_name(tool.function if absent(tool.custom) else tool.custom) for tool in allowed.tools}
        values["tool_choice"] = Raw(b'"required"' if allowed.mode == "required" else b'"auto"')
        return names & listed
    if choice.type == "custom":
        values["tool_choice"] = Raw(encode({"type": "function", "function": {"name": _name(choice.custom)}}))
    elif choice.type != "function":
        values["tool_choice"] = Raw(b'"auto"')
        return names
    name = _name(choice.function if choice.type == "function" else choice.custom)
    if name not in names:
        raise bad("tool_choice", "names none of the tools")
    return names


def _name(raw: Raw) -> str:
    if absent(raw):
        raise bad("tool_choice", "must name a tool")
    return typed(raw, _named, "tool_choice").name


def shimmed(text: Any) -> str:
    """A custom tool's input as the function's arguments."""
    return encode({"input": text if isinstance(text, str) else ""}).decode()


def unshimmed(arguments: str) -> str:
    """The input inside the arguments of a complete call."""
    value = loads(arguments)
    inner = value.get("input") if isinstance(value, dict) else None
    return inner if isinstance(inner, str) else arguments

"""Tools of OpenAI Responses as functions of chat completions, and their calls back (rule R-04).

Chat knows functions alone. A namespace's members become functions of a joined name, a custom tool (free text in) a
function with one string, `input`; the names lead back to what the client called them. What a hosted service would
run is left out: there is none here.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
from msgspec import Raw, Struct

from cortex_core.dialects.body import NOT_JSON, absent, bad, encode, loads, typed
from cortex_core.translate.responses.fields import a_name, an_array, an_object
from cortex_core.translate.schema import check

MAX_NAME = 64  # characters of a function's name
CUSTOM_PARAMETERS = {
    "type": "object",
    "properties": {"input": {"type": "string", "description": "The tool's whole input, as plain text."}},
    "required": ["input"],
    "additionalProperties": False,
}


class _Entry(Struct):
    type: Any = None
    name: Any = None
    description: Any = None
    parameters: Raw = Raw()
    strict: Any = None
    format: Any = None
    tools: Raw = Raw()


class Tool(Struct, frozen=True):
    """What the client calls a function of ours."""

    name: str
    namespace: str | None = None
    custom: bool = False


class Tools(Struct, frozen=True):
    """A request's tools: the chat functions, and what the client calls each of them."""

    functions: list[dict[str, Any]] = []
    known: dict[str, Tool] = {}  # by function name
    joined: dict[tuple[str, str], str] = {}  # (namespace, name) -> function name

    def called(self, function: str) -> Tool:
        """The client's name for a function; a model may also call what does not exist."""
        return self.known.get(function) or Tool(function)

    def function(self, name: str, namespace: str | None = None) -> str:
        """The function's name for what the client calls `name`, also where it is no tool of this request."""
        if not namespace:
            return name
        return self.joined.get((namespace, name)) or _joined(namespace, name, frozenset())

    def only(self, names: set[str | None]) -> Tools:
        """Those tools alone."""
        return Tools([one for one in self.functions if one["function"]["name"] in names], self.known, self.joined)


_entries = msgspec.json.Decoder(list[_Entry]).decode
_object = msgspec.json.Decoder(dict[str, Raw]).decode


def read(raw: Raw | None) -> Tools:
    """The `tools` of a request.

    Raises:
        CortexError: bad_request, naming the entry.
    """
    found: list[tuple[Tool, dict[str, Any]]] = []
    for index, one in enumerate([] if raw is None or absent(raw) else typed(raw, _entries, "tools")):
        where = f"tools.{index}"
        if one.type == "namespace":
            space = a_name(f"{where}.name", one.name)
            members = [] if absent(one.tools) else typed(one.tools, _entries, f"{where}.tools")
            for at, member in enumerate(members):
                found += _callable(f"{where}.tools.{at}", member, space)
        else:
            found += _callable(where, one, None)
    return _named(found)


def choose(value: Any, tools: Tools) -> tuple[Tools, Any]:
    """The request's `tool_choice` in chat's words, with the tools that it leaves.

    Raises:
        CortexError: bad_request, naming the field.
    """
    if value is None or isinstance(value, str):
        if value not in (None, "auto", "none", "required"):
            raise bad("tool_choice", "must be auto, none, required or an object")
        return tools, value if tools.functions else None
    kind = an_object("tool_choice", value).get("type")
    if kind == "allowed_tools":
        allowed = an_array("tool_choice.tools", value.get("tools"))
        names = {_reference(f"tool_choice.tools.{at}", one, tools) for at, one in enumerate(allowed)}
        left = tools.only(names)
        mode = "required" if value.get("mode") == "required" else "auto"
        return left, mode if left.functions else None
    name = _reference("tool_choice", value, tools)
    if name is None:
        return tools, "auto" if tools.functions else None
    if name not in tools.known:
        raise bad("tool_choice", "names a tool that is not among `tools`")
    return _forced(name, tools), {"type": "function", "function": {"name": name}}


def _forced(name: str, tools: Tools) -> Tools:
    """With `strict`, without which an engine leaves the arguments of a forced call unconstrained (A-43)."""
    functions = list(tools.functions)
    for at, one in enumerate(functions):
        function = one["function"]
        if function["name"] == name:
            check(Raw(encode(function["parameters"])), "tools")
            functions[at] = {**one, "function": {**function, "strict": True}}
    return Tools(functions, tools.known, tools.joined)


def custom_input(arguments: str) -> str:
    """The free text in the arguments of a custom tool's function. Models name it `input`, or otherwise."""
    try:
        value = loads(arguments)
    except NOT_JSON:
        return arguments
    if isinstance(value, dict):
        value = value.get("input", next(iter(value.values())) if len(value) == 1 else None)
    return value if isinstance(value, str) else arguments


def custom_arguments(text: str) -> str:
    """The arguments that stand for a custom tool's input."""
    return encode({"input": text}).decode()


def _callable(where: str, one: _Entry, namespace: str | None) -> list[tuple[Tool, dict[str, Any]]]:
    """The function for one entry; none where a hosted service is meant, or something unknown."""
    if one.type not in ("function", "custom"):
        return []
    tool = Tool(a_name(f"{where}.name", one.name), namespace, one.type == "custom")
    body: dict[str, Any] = {}
    description = one.description if isinstance(one.description, str) else ""
    if tool.custom:
        body["parameters"] = CUSTOM_PARAMETERS
        description = f"{description}\n\n{_grammar(one)}".strip()
    else:
        body["parameters"] = _parameters(one.parameters, f"{where}.parameters")
        if one.strict is True:
            check(one.parameters, f"{where}.parameters")
            body["strict"] = True
    return [(tool, {"description": description, **body} if description else body)]


def _parameters(raw: Raw, where: str) -> Any:
    """A schema, its bytes untouched: the template shows the model what the client wrote."""
    if absent(raw):
        return {"type": "object", "properties": {}}
    values = typed(raw, _object, where)
    return raw if "type" in values else {"type": "object", **values}


def _grammar(one: _Entry) -> str:
    """A custom tool's grammar, as words: nothing enforces it."""
    format_ = one.format
    if not isinstance(format_, dict) or not format_.get("definition"):
        return ""
    return f"The input must follow this {format_.get('syntax') or ''} grammar:\n{format_['definition']}"


def _named(found: list[tuple[Tool, dict[str, Any]]]) -> Tools:
    """Plain names stay as they are; joined ones give way to them."""
    known: dict[str, Tool] = {}
    joined: dict[tuple[str, str], str] = {}
    functions: list[dict[str, Any]] = []
    taken = {tool.name for tool, _ in found if tool.namespace is None}
    for tool, body in found:
        if tool.namespace is None:
            name = tool.name
        else:
            name = joined.get((tool.namespace, tool.name)) or _joined(tool.namespace, tool.name, taken)
            joined[tool.namespace, tool.name] = name
        if name in known:
            continue  # given twice
        known[name] = tool
        taken.add(name)
        functions.append({"type": "function", "function": {"name": name, **body}})
    return Tools(functions, known, joined)


def _joined(namespace: str, tool: str, taken: frozenset[str] | set[str]) -> str:
    """`<namespace>__<name>`, with a digest where that is too long or taken."""
    plain = name = f"{namespace}__{tool}"
    salt = 0
    while len(name) > MAX_NAME or name in taken:
        digest = hashlib.blake2b(f"{namespace}\0{tool}\0{salt}".encode(), digest_size=4).hexdigest()
        name = f"{plain[: MAX_NAME - len(digest) - 1]}_{digest}"
        salt += 1
    return name


def _reference(where: str, one: Any, tools: Tools) -> str | None:
    """The function that a choice names; None: a hosted tool."""
    if an_object(where, one).get("type") not in ("function", "custom"):
        return None
    namespace = one.get("namespace")
    return tools.function(a_name(f"{where}.name", one.get("name")), namespace if isinstance(namespace, str) else None)

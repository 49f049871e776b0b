"""Tool calls of an answer: which are complete.

A truncated call must never become runnable (protocol C-11): an agent that repairs `{"cmd":"rm","args":["-rf","/home/`
would run something nobody asked for.
"""

from __future__ import annotations

import msgspec
from msgspec import Raw

from cortex_core.dialects.body import NOT_JSON

_raw = msgspec.json.Decoder(dict[str, Raw]).decode
_any = msgspec.json.Decoder().decode

EMPTY = frozenset({"", "{}", "null"})


def is_object(arguments: str) -> bool:
    """Whether arguments are a whole JSON object."""
    if not arguments.rstrip().endswith("}"):
        return False
    try:
        _raw(arguments)
    except NOT_JSON:
        return False
    return True


def as_object(arguments: str) -> str | None:
    """Arguments as a JSON object: nothing is an empty one, another value becomes {"value": ...}; None: truncated."""
    arguments = arguments.strip()
    if arguments in EMPTY:
        return "{}"
    try:
        value = _any(arguments)
    except NOT_JSON:
        return None
    return arguments if isinstance(value, dict) else '{"value":' + arguments + "}"

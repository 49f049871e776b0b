"""The fast path: a request of which one typed decode says that nothing in it has to be changed, or even looked at.

Most requests are like that: text from system, user and assistant, and settings that no rule speaks of. Whatever differs
in the least is no error here, and goes the long way through `request`, which alone changes and refuses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from cortex_core.dialects.body import NOT_JSON, is_beyond_all
from cortex_core.translate.chat import caps, tools

RULED: Final = caps.KEYS | tools.KEYS | {"reasoning_effort", "max_output_tokens"}
"""Keys at which a request is looked at more closely."""


class _Text(Struct, gc=False):
    type: Literal["text"]


class _Said(Struct, gc=False):
    role: Literal["system", "user", "assistant"]
    content: str | list[_Text]
    tool_calls: UnsetType = UNSET
    tool_call_id: UnsetType = UNSET
    function_call: UnsetType = UNSET
    reasoning_content: UnsetType = UNSET
    reasoning_details: UnsetType = UNSET


class _StreamOptions(Struct, gc=False):
    include_usage: bool = False


_Bound = Annotated[int, Meta(gt=0)] | UnsetType


class Plain(Struct, gc=False):
    """What is read of such a request."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    messages: Annotated[list[_Said], Meta(min_length=1)]
    stream: bool | None = None
    stream_options: _StreamOptions | UnsetType | None = UNSET
    max_tokens: _Bound = UNSET
    max_completion_tokens: _Bound = UNSET
    prompt_cache_key: str = ""


_decode = msgspec.json.Decoder(Plain).decode
_READ = frozenset(Plain.__struct_fields__)


def plain(body: bytes, values: Mapping[str, Raw]) -> Plain | None:
    """`body`, whose top-level values these are, if it is plain: then the engine gets it as it is."""
    if not RULED.isdisjoint(values):
        return None
    try:
        found = _decode(body)
    except NOT_JSON:
        return None
    if len(found.messages) > 1 and any(said.role == "system" for said in found.messages[1:]):
        return None  # templates want it first
    if not found.stream and found.stream_options is not UNSET:
        return None
    if not _READ.issuperset(values) and any(is_beyond_all(values[key]) for key in values.keys() - _READ):
        return None
    return found

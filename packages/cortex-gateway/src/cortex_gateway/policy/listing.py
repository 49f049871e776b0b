"""The list of models in the shapes that clients read: OpenAI's with aliases, Anthropic's, llama.cpp's fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from msgspec import UNSET, structs

from cortex_core.errors import CortexError
from cortex_core.gateway_api import Model
from cortex_gateway.policy.aliases import DISCOVERABLE, Names

DEFAULT_LIMIT, MAX_LIMIT = 20, 1000
_DISCOVERED = ("claude", "anthropic")
_GENERATES = frozenset({"chat", "completion", "reasoning", "tools", "vision"})  # text, to whatever grammar is asked


def with_aliases(models: Sequence[Model], names: Names, adapters: Mapping[str, str] = {}) -> tuple[Model, ...]:
    """The models, and behind them their adapters and the names that stand for one."""
    known = {model.id: model for model in models}
    tuned = {name: alias(known[model], name) for name, model in adapters.items() if model in known}
    meant = {name: (known | tuned)[model] for name, model in names.listed(known.keys() | tuned.keys()).items()}
    return (*models, *tuned.values(), *(alias(model, name) for name, model in meant.items()))


def alias(model: Model, name: str) -> Model:
    """The entry of a model under another name."""
    return model if name == model.id else structs.replace(model, id=name, root=model.id, parent=model.id)


def anthropic(model: Model) -> dict[str, Any]:
    """An entry as Anthropic has it. The epoch is its word for a date that nobody knows."""
    created = datetime.fromtimestamp(model.created, UTC)
    return {
        "type": "model",
        "id": model.id,
        "display_name": model.id,
        "created_at": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "max_input_tokens": _or_none(model.max_input_tokens) or _or_none(model.max_model_len),
        "max_tokens": _or_none(model.max_output_tokens) or _or_none(model.max_model_len),
        "lifecycle": "active",
        "line": None,
        "capabilities": _capabilities(frozenset(model.capabilities)),
    }


def _capabilities(known: frozenset[str]) -> dict[str, Any] | None:
    """Anthropic's word on what a model can; None: nothing is known. Any way to think is accepted from anybody, and
    heeded by who can; documents that are no text, and what their servers do beside a model, are nobody's here."""
    if not known:
        return None
    no, thinks = {"supported": False}, {"supported": "reasoning" in known}
    return {
        "batch": no,
        "citations": no,
        "code_execution": no,
        "context_management": no,
        "effort": {**thinks, **dict.fromkeys(("low", "medium", "high", "xhigh", "max"), thinks)},
        "image_input": {"supported": "vision" in known},
        "pdf_input": no,
        "server_tools": {**no, "code_execution": no, "web_search": no},
        "structured_outputs": {"supported": bool(known & _GENERATES)},
        "thinking": {
            **thinks,
            "types": {
                "adaptive": thinks,
                "enabled": thinks,
                "disabled": {"supported": True},
                "between_tools": {"supported": True},
            },
        },
    }


def anthropic_list(models: Sequence[Model], *, limit: str, after_id: str, before_id: str) -> dict[str, Any]:
    """A page of the list. Claude Code takes only ids that begin with claude or anthropic, so each model has such a one.

    Raises:
        CortexError: bad_request, naming the parameter.
    """
    named = [alias(model, DISCOVERABLE + model.id) for model in models if not model.id.startswith(_DISCOVERED)]
    every = [*models, *named]
    size = DEFAULT_LIMIT
    if limit:
        if not limit.isdecimal() or not 1 <= int(limit) <= MAX_LIMIT:
            raise CortexError("bad_request", f"`limit` must be 1 to {MAX_LIMIT}", param="limit")
        size = int(limit)
    ids = [model.id for model in every]
    first, last = 0, len(every)
    if after_id in ids:
        first = ids.index(after_id) + 1
    if before_id in ids:
        last = ids.index(before_id)
        first = max(first, last - size)
    page = every[first : min(last, first + size)]
    more = first > 0 if before_id in ids and after_id not in ids else first + len(page) < last
    return {
        "data": [anthropic(model) for model in page],
        "has_more": more,
        "first_id": page[0].id if page else None,
        "last_id": page[-1].id if page else None,
    }


def router_props(build: str) -> dict[str, Any]:
    """llama.cpp's `GET /props` of a server of several models, which loads what is asked for."""
    return {
        "role": "router",
        "models_autoload": True,
        "default_generation_settings": {"n_ctx": 0, "params": {}},
        "model_alias": "cortex",
        "model_path": "none",
        "build_info": f"cortex {build}",
    }


def props(model: Model, build: str) -> dict[str, Any]:
    """llama.cpp's `GET /props`, as far as it is known without a load."""
    return {
        "default_generation_settings": {"n_ctx": _or_none(model.max_model_len) or 0, "params": {}},
        "total_slots": 1,
        "model_alias": model.id,
        "model_path": _or_none(model.root) or model.id,
        "modalities": {"vision": "vision" in model.capabilities, "audio": "audio" in model.capabilities},
        "chat_template": "",
        "build_info": f"cortex {build}",
        "is_sleeping": not model.loaded,
    }


def _or_none(value: Any) -> Any:
    return None if value is UNSET else value

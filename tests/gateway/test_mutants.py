"""goal_R60: no mutated body of any surface ends in a 500. A million each with `nox -s mutants`."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import pytest

from tests.gateway.test_fuzz import app, scope_of
from tests.support.mutants import encoded, mutants

__all__ = ["app"]

COUNT = int(os.environ.get("MUTANTS", "100000"))
SEED = random.SystemRandom().randrange(1 << 32) if os.environ.get("EXPLORE") else 0

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "$schema": "https://x"}
PNG = "iVBORw0KGgo="
MESSAGES: dict[str, Any] = {
    "model": "tiny", "max_tokens": 100, "stream": False, "temperature": 1, "top_k": 5, "stop_sequences": ["END"],
    "system": [
        {"type": "text", "text": "x-anthropic-billing-header: cc_version=1"},
        {"type": "text", "text": "Be brief", "cache_control": {"type": "ephemeral"}},
    ],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "Weather? é"}]},
        {"role": "system", "content": "A reminder"},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "hm", "signature": "cx1.x"}, {"type": "text", "text": "Let me look"},
            {"type": "tool_use", "id": "t1", "name": "get", "input": {"city": "Paris"}},
            {"type": "tool_use", "id": "t2", "name": "get", "input": {}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t1", "is_error": True, "content": [
                {"type": "text", "text": "21"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
                {"type": "document", "title": "T", "source": {"type": "text", "data": "inner"}},
            ]},
            {"type": "tool_result", "tool_use_id": "t2"},
            {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}},
            {"type": "search_result", "title": "S", "source": "u", "content": [{"type": "text", "text": "found"}]},
        ]},
    ],
    "tools": [
        {"name": "get", "description": "d", "input_schema": SCHEMA, "strict": True},
        {"type": "web_search_20250305", "name": "web_search", "max_uses": 3}, {"type": "bash_20250124", "name": "bash"},
    ],
    "tool_choice": {"type": "tool", "name": "get", "disable_parallel_tool_use": True},
    "thinking": {"type": "enabled", "budget_tokens": 1024}, "metadata": {"user_id": '{"session_id":"s"}'},
    "output_config": {"effort": "high", "format": {"type": "json_schema", "schema": SCHEMA}},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
}  # fmt: skip
RESPONSES: dict[str, Any] = {
    "model": "tiny", "instructions": "Be brief", "stream": False, "store": False, "temperature": 0.5,
    "max_output_tokens": 100, "parallel_tool_calls": True, "tool_choice": "auto", "top_logprobs": 2,
    "include": ["reasoning.encrypted_content", "message.output_text.logprobs"], "prompt_cache_key": "k",
    "reasoning": {"effort": "high", "summary": "auto"}, "metadata": {"a": "b"},
    "text": {"verbosity": "low", "format": {"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True}},
    "input": [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "rules"}]},
        {"role": "user", "content": "Weather? é"},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "s"}], "encrypted_content": "cx1.x",
         "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Let me look"}]},
        {"type": "function_call", "call_id": "c1", "name": "get", "arguments": '{"city":"Paris"}'},
        {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "21"}]},
        {"type": "custom_tool_call", "call_id": "c2", "name": "patch", "input": "***"},
        {"type": "custom_tool_call_output", "call_id": "c2", "output": "ok"},
        {"type": "web_search_call", "id": "w", "status": "completed"},
        {"type": "message", "role": "user", "content": [
            {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}", "detail": "auto"},
            {"type": "input_file", "filename": "a.txt", "file_data": "data:text/plain;base64,aGk="},
        ]},
    ],
    "tools": [
        {"type": "function", "name": "get", "parameters": SCHEMA, "strict": True},
        {"type": "namespace", "name": "multi", "tools": [{"type": "function", "name": "spawn", "parameters": SCHEMA}]},
        {"type": "custom", "name": "patch", "format": {"type": "grammar", "syntax": "lark", "definition": "start: X"}},
        {"type": "web_search", "external_web_access": True},
    ],
}  # fmt: skip
CHAT: dict[str, Any] = {
    "model": "tiny", "stream": False, "max_tokens": 100, "n": 1, "stop": ["END"], "seed": 5, "logit_bias": {"5": 1},
    "logprobs": True, "top_logprobs": 2, "reasoning_effort": "high", "user": "u", "prompt_cache_key": "k",
    "stream_options": {"include_usage": True}, "parallel_tool_calls": True,
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}},
    "messages": [
        {"role": "developer", "content": "rules"}, {"role": "system", "content": [{"type": "text", "text": "more"}]},
        {"role": "user", "name": "me", "content": [
            {"type": "text", "text": "Weather? é"},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}", "detail": "low"}},
            {"type": "file", "file": {"filename": "a.pdf", "file_data": "x"}},
        ]},
        {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "get", "arguments": '{"city":"Paris"}'}},
            {"id": "c2", "type": "custom", "custom": {"name": "patch", "input": "***"}},
        ]},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "21"}]},
        {"role": "function", "name": "get", "content": "22"}, {"role": "user", "content": "And?"},
    ],
    "tools": [
        {"type": "function", "function": {"name": "get", "description": "d", "parameters": SCHEMA, "strict": True}},
        {"type": "custom", "custom": {"name": "patch", "description": "d"}},
    ],
    "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [
        {"type": "function", "function": {"name": "get"}}]}},
}  # fmt: skip
LEGACY = {key: value for key, value in CHAT.items() if key not in {"tools", "tool_choice"}} | {
    "functions": [{"name": "get", "parameters": SCHEMA}], "function_call": {"name": "get"},
}  # fmt: skip
PROMPT = {"model": "tiny", "prompt": ["x", "y"], "max_tokens": 5, "echo": True, "logprobs": 1, "suffix": None, "n": 2}
EDGE = "mutant-edge"
FORM = "".join(
    f'--{EDGE}\r\ncontent-disposition: form-data; name="{name}"{more}\r\n\r\n{value}\r\n'
    for name, more, value in [
        ("model", "", "tiny"),
        ("stream", "", "false"),
        ("file", '; filename="a.wav"', "RIFF" * 9),
    ]
)


class Surface(NamedTuple):
    path: str
    body: bytes
    content_type: str = "application/json"


SURFACES: Mapping[str, Surface] = {
    "messages": Surface("/v1/messages", encoded(MESSAGES)),
    "messages-count": Surface("/v1/messages/count_tokens", encoded(MESSAGES)),
    "responses": Surface("/v1/responses", encoded(RESPONSES)),
    "responses-count": Surface("/v1/responses/input_tokens", encoded(RESPONSES)),
    "chat": Surface("/v1/chat/completions", encoded(CHAT)),
    "chat-legacy": Surface("/v1/chat/completions", encoded(LEGACY)),
    "completions": Surface("/v1/completions", encoded(PROMPT)),
    "embeddings": Surface(
        "/v1/embeddings", encoded({"model": "tiny", "input": ["a", [1]], "encoding_format": "base64"})
    ),
    "rerank": Surface("/v1/rerank", encoded({"model": "tiny", "query": "q", "documents": ["a", "b"], "top_n": 1})),
    "score": Surface("/v1/score", encoded({"model": "tiny", "text_1": "a", "text_2": ["b", "c"]})),
    "classify": Surface("/classify", encoded({"model": "tiny", "input": ["a", "b"]})),
    "pooling": Surface("/pooling", encoded({"model": "tiny", "input": "a", "task": "embed"})),
    "tokenize": Surface("/tokenize", encoded({"model": "tiny", "messages": [{"role": "user", "content": "x"}]})),
    "detokenize": Surface("/detokenize", encoded({"model": "tiny", "tokens": [1, 2]})),
    "audio": Surface(
        "/v1/audio/transcriptions", (FORM + f"--{EDGE}--\r\n").encode(), f"multipart/form-data; boundary={EDGE}"
    ),
}


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", SURFACES)
def test_goal_R60_mutated_bodies(app: Any, name: str, record_property: Any) -> None:
    surface = SURFACES[name]
    form = surface.content_type != "application/json"
    made = mutants(surface.body, random.Random(f"{SEED} {name}"), form=form)
    statuses: Counter[int] = Counter()

    async def all_of_them() -> None:
        statuses[await asked(app, surface, surface.body)] += 1
        for _ in range(COUNT):
            mutant = next(made)
            status = await asked(app, surface, mutant)
            statuses[status] += 1
            assert status in {200, 400, 404, 503, 529}, f"seed {SEED}: {status} for {mutant!r}"

    asyncio.run(all_of_them())
    record_property("statuses", dict(statuses))
    print(f"{name}: {COUNT} mutants, {dict(statuses)}")  # noqa: T201 - the figures
    assert statuses[400] > COUNT / 10, "mutants are noticed"


async def asked(app: Any, surface: Surface, body: bytes) -> int:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope_of("POST", surface.path, body, surface.content_type), receive, send)
    return int(sent[0]["status"])

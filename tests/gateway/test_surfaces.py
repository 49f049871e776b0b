"""Every other endpoint, and what holds for all of them: paths, methods, content types, envelopes, ids."""

from __future__ import annotations

from typing import Any

import aiohttp
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cortex_core.errors import CortexError, Dialect
from cortex_gateway.policy.body import Target, read
from tests.support.gateway import TINY, Running, gateway
from tests.support.scripted import ANSWER, DONE, HELLO, ScriptedNeuron, says, streams

USER = [{"role": "user", "content": "hi"}]
EMBEDDED = {"object": "list", "model": "tiny", "data": [{"embedding": "AACAPw==", "index": 0}],
            "usage": {"prompt_tokens": 3, "total_tokens": 3}}  # fmt: skip
RANKED = {"id": "r", "model": "tiny", "usage": {"total_tokens": 3},
          "results": [{"index": 0, "relevance_score": 0.9, "document": {"text": "a"}}]}  # fmt: skip


# ---------------------------------------------------------------------------------------------- engines' own endpoints


@pytest.mark.parametrize(
    ("path", "target", "body", "answer"),
    [
        ("/v1/embeddings", "/v1/embeddings", {"input": [[1, 2]], "encoding_format": "base64"}, EMBEDDED),
        ("/embeddings", "/v1/embeddings", {"input": "x", "dimensions": 2}, EMBEDDED),
        ("/v1/rerank", "/v1/rerank", {"query": "q", "documents": ["a"]}, RANKED),
        ("/v2/rerank", "/v1/rerank", {"query": "q", "documents": ["a"]}, RANKED),
        ("/rerank", "/v1/rerank", {"query": "q", "documents": ["a"], "top_n": 1}, RANKED),
        ("/v1/score", "/v1/score", {"text_1": "a", "text_2": "b"}, {"data": [{"score": 1.0}]}),
        ("/score", "/v1/score", {"text_1": "a", "text_2": ["b"]}, {"data": [{"score": 1.0}]}),
        ("/classify", "/classify", {"input": "a"}, {"data": [{"label": "x"}]}),
        ("/pooling", "/pooling", {"input": "a"}, {"data": [{"data": [0.5]}]}),
        ("/tokenize", "/tokenize", {"prompt": "a"}, {"count": 1, "tokens": [7]}),
        ("/detokenize", "/detokenize", {"tokens": [7]}, {"prompt": "a"}),
    ],
)
async def test_rule_L_02_L_03_L_04_objects_go_to_the_model_and_come_back_as_they_are(
    beast: ScriptedNeuron, served: Running, path: str, target: str, body: dict[str, Any], answer: dict[str, Any]
) -> None:
    beast.answers = says(answer)
    got = await served.ask("POST", path, {"model": "tiny", **body})
    assert (got.status, got.json) == (200, answer)
    (asked,) = beast.asked
    assert (asked.path, msgspec.json.decode(asked.body)) == (target, {"model": "tiny", **body})
    got = await served.ask("POST", path, {"model": "anthropic/tiny", **body})
    assert got.json == (answer | {"model": "anthropic/tiny"} if "model" in answer else answer)
    assert msgspec.json.decode(beast.asked[1].body)["model"] == "tiny"


async def test_embeddings_are_counted(beast: ScriptedNeuron, served: Running) -> None:
    beast.answers = says(EMBEDDED)
    await served.ask("POST", "/v1/embeddings", {"model": "tiny", "input": "x"})
    assert await served.metric("cortex_requests_total", model="tiny", dialect="openai-embeddings") == 1
    assert await served.metric("cortex_prompt_tokens_total", model="tiny") == 3


@pytest.mark.parametrize(
    ("prompt", "more"),
    [("x", {}), (["x", "y"], {"n": 2}), ([1, 2], {"echo": True, "logprobs": 0}), ([[1], [2]], {"suffix": "z"})],
)
async def test_rule_L_01_completions_pass_as_they_are(
    beast: ScriptedNeuron, served: Running, prompt: Any, more: dict[str, Any]
) -> None:
    beast.answers = says({"id": "cmpl-1", "choices": [{"text": "x", "finish_reason": "stop"}]})
    got = await served.ask("POST", "/v1/completions", {"model": "tiny", "prompt": prompt, **more})
    assert (got.status, got.json["id"]) == (200, "cmpl-1")
    assert msgspec.json.decode(beast.asked[0].body) == {"model": "tiny", "prompt": prompt, **more}


@pytest.mark.parametrize("status", [404, 405, 501])
async def test_rule_L_06_a_model_of_another_task_is_a_mistake_of_the_request(
    beast: ScriptedNeuron, served: Running, status: int
) -> None:
    beast.answers = says({"detail": "Not Found"}, status)
    got = await served.ask("POST", "/v1/embeddings", {"model": "tiny", "input": "x"})
    assert (got.status, got.error["param"]) == (400, "model")
    assert "another task" in got.error["message"]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/embeddings", {"input": "x", "encoding_format": "bytes"}, "encoding_format"),
        ("/v1/embeddings", {"input": "x", "prompt_embeds": "AAAA"}, "prompt_embeds"),
        ("/tokenize", {"messages": USER, "chat_template": "{{ x }}"}, "chat_template"),
        ("/v1/chat/completions", {"messages": USER, "chat_template": "{{ x }}"}, "chat_template"),
        ("/v1/completions", {"prompt": "x", "n": 10_000}, "n"),
        ("/v1/completions", {}, "prompt"),
        ("/v1/rerank", {"model": 7}, "model"),
    ],
)
async def test_goal_F65_what_may_harm_an_engine_does_not_reach_it(
    beast: ScriptedNeuron, served: Running, path: str, body: dict[str, Any], param: str
) -> None:
    got = await served.ask("POST", path, {"model": "tiny", **body})
    assert (got.status, got.error["param"]) == (400, param)
    assert beast.asked == []


# ---------------------------------------------------------------------------------------------- chat, normalised


async def test_chat_is_mended_where_engines_would_refuse_it(beast: ScriptedNeuron, served: Running) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    message = {"role": "assistant", "content": None, "reasoning": "hm", "tool_calls": [call]}
    beast.answers = says({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    messages = [{"role": "developer", "content": "Be brief"}, *USER]
    got = await served.ask("POST", "/v1/chat/completions", {"model": "tiny", "messages": messages, "tools": tools})
    assert [m["role"] for m in msgspec.json.decode(beast.asked[0].body)["messages"]] == ["system", "user"]
    (choice,) = got.json["choices"]
    assert choice["message"]["reasoning_content"] == choice["message"]["reasoning"] == "hm"
    assert choice["finish_reason"] == "tool_calls"


async def test_reasoning_in_a_stream_has_both_names_from_when_it_appears(
    beast: ScriptedNeuron, served: Running
) -> None:
    thought = b'data: {"choices":[{"index":0,"delta":{"reasoning":"hm"},"finish_reason":null}]}\n\n'
    beast.answers = streams(HELLO[0], thought, HELLO[3], DONE)
    got = await served.chat(stream=True)
    assert b'{"reasoning":"hm","reasoning_content":"hm"}' in got.body
    assert got.body.startswith(HELLO[0])
    assert got.body.endswith(HELLO[3] + DONE)


# ---------------------------------------------------------------------------------------------- paths and envelopes

CHAT_BODY = {"model": "tiny", "messages": USER}
MESSAGE_BODY = CHAT_BODY | {"max_tokens": 5}


@pytest.mark.parametrize("prefix", ["", "/v1", "/v1/v1", "/anthropic/v1"])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/chat/completions", CHAT_BODY),
        ("/completions", {"model": "tiny", "prompt": "x"}),
        ("/messages", MESSAGE_BODY),
        ("/messages/count_tokens", CHAT_BODY),
        ("/responses", {"model": "tiny", "input": "x"}),
        ("/responses/input_tokens", {"model": "tiny", "input": "x"}),
        ("/embeddings", {"model": "tiny", "input": "x"}),
        ("/models", None),
        ("/models/tiny", None),
    ],
)
async def test_rule_H_09_fixture_46_prefixes_that_users_set(
    beast: ScriptedNeuron, served: Running, prefix: str, path: str, body: dict[str, Any] | None
) -> None:
    beast.answers = says(ANSWER)
    got = await served.ask("GET" if body is None else "POST", prefix + path, body or b"")
    assert got.status == 200


@pytest.mark.parametrize(
    ("method", "path", "headers", "anthropic"),
    [
        ("POST", "/v1/messages/batches", {}, True),
        ("GET", "/v1/messages", {}, True),
        ("GET", "/v1/nothing", {"anthropic-version": "2030-01-01"}, True),
        ("GET", "/v1/nothing", {}, False),
        ("GET", "/v1/responses", {}, False),
        ("PUT", "/v1/models", {}, False),
        ("PATCH", "/", {}, False),
    ],
)
async def test_rule_H_10_E_01_what_is_not_there_is_told_in_the_callers_envelope(
    served: Running, method: str, path: str, headers: dict[str, str], anthropic: bool
) -> None:
    got = await served.ask(method, path, headers=headers)
    assert got.status in (404, 405)
    assert ("allow" in got.headers) is (got.status == 405)
    assert got.headers["x-request-id"].startswith("req_")
    assert set(got.error) == ({"type", "message"} if anthropic else {"message", "type", "param", "code"})
    assert (got.json.get("request_id") == got.headers["x-request-id"]) is anthropic


@pytest.mark.parametrize(("path", "status"), [("/", 200), ("/health", 200), ("/v1/models", 200)])
async def test_rule_H_10_probes_are_answered_fast_and_without_a_body(served: Running, path: str, status: int) -> None:
    url = f"http://{served.address}{path}"
    async with aiohttp.ClientSession() as session:
        async with session.head(url) as got:
            assert (got.status, await got.read()) == (status, b"")
        async with session.get(url) as got:
            assert (got.status, bool(await got.read())) == (status, True)


@pytest.mark.parametrize(
    "kind", ["application/json; charset=utf-8", "text/plain", "application/x-www-form-urlencoded", ""]
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
async def test_rule_H_08_a_wrong_content_type_is_no_mistake_if_it_is_json(
    beast: ScriptedNeuron, served: Running, kind: str, path: str
) -> None:
    beast.answers = says(ANSWER)
    got = await served.ask("POST", path, MESSAGE_BODY, {"content-type": kind} if kind else {})
    assert got.status == 200
    assert beast.asked[0].headers["content-type"] == "application/json"


async def test_rule_H_15_a_body_over_the_limit_is_told_in_the_callers_envelope(beast: ScriptedNeuron) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "x" * (1 << 20)}], "max_tokens": 1}
    async with gateway([beast], [TINY], max_body_mb=1) as served:
        for path, kind in (("/v1/messages", "request_too_large"), ("/v1/responses", "invalid_request_error")):
            got = await served.ask("POST", path, body)
            assert (got.status, got.error["type"]) == (413, kind)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
async def test_rule_H_14_the_same_request_again_is_another_one(
    beast: ScriptedNeuron, served: Running, path: str
) -> None:
    beast.answers = says(ANSWER)
    body = MESSAGE_BODY | {"input": "x"}
    ids = {(await served.ask("POST", path, body, {"x-request-id": "mine"})).headers["x-request-id"] for _ in range(2)}
    assert len(ids) == 2
    assert len({asked.headers["x-cortex-request-id"] for asked in beast.asked}) == 2


# ---------------------------------------------------------------------------------------------- mutations

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
KEYS = ("model", "messages", "prompt", "input", "system", "max_tokens", "stream", "stream_options", "tools",
        "tool_choice", "thinking", "metadata", "text", "reasoning", "stop", "encoding_format")  # fmt: skip
requests = st.fixed_dictionaries(
    {"model": st.just("tiny")},
    optional={key: st.sampled_from([USER, 5, True, "x"]) | values for key in KEYS if key != "model"},
)


@settings(max_examples=300)
@given(st.sampled_from(sorted(set(Dialect) - {Dialect.OPENAI_AUDIO})), st.booleans(), requests)
def test_goal_R60_no_body_of_any_dialect_raises_anything_but_a_mistake_of_the_client(
    dialect: Dialect, counting: bool, body: dict[str, Any]
) -> None:
    try:
        wanted = read(msgspec.json.encode(body), dialect, Target, counting=counting)
    except CortexError as error:
        assert error.rule.status == 400  # noqa: PT017 - most are refused, none must fail otherwise
    else:
        assert isinstance(msgspec.json.decode(wanted.payload), dict)

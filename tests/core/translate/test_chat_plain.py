"""The fast path takes what the normaliser would leave alone, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex_core.dialects.body import parse
from cortex_core.errors import CortexError
from cortex_core.fleet import ModelFacts
from cortex_core.translate.chat import ChatContext, plain, request
from cortex_core.translate.chat.plain import RULED

SCALARS = st.none() | st.booleans() | st.integers(-5, 1 << 70) | st.floats(allow_nan=False) | st.text(max_size=5)
ANYTHING: st.SearchStrategy[Any] = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
PARTS = st.fixed_dictionaries({"type": st.sampled_from(["text", "image_url", "file"])}, optional={"text": ANYTHING})
OF_MESSAGES = st.sampled_from(
    ["tool_calls", "tool_call_id", "function_call", "reasoning", "reasoning_content", "reasoning_details", "name"]
)
MESSAGES = st.lists(
    st.builds(
        lambda role, content, more: {"role": role, "content": content, **more},
        st.sampled_from(["system", "user", "user", "assistant", "tool", "developer"]),
        st.text(max_size=9) | st.lists(PARTS, max_size=2) | ANYTHING,
        st.just({}) | st.dictionaries(OF_MESSAGES, ANYTHING, max_size=1),
    ),
    max_size=3,
)
KNOWN = ["stream", "stream_options", "max_tokens", "max_completion_tokens", "temperature", "prompt_cache_key", "seed"]
OPTIONS = st.fixed_dictionaries({}, optional={"include_usage": SCALARS, "continuous_usage_stats": SCALARS})
SETTINGS = st.dictionaries(st.sampled_from(KNOWN), ANYTHING | OPTIONS, max_size=3) | st.dictionaries(
    st.sampled_from(sorted(RULED)) | st.text(max_size=6), ANYTHING, max_size=2
)
FACTS = st.builds(ModelFacts, vision=st.booleans(), system_first=st.booleans(), accepts_developer=st.booleans())


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Requests that are nearly right, and some that are overwritten somewhere, or say a thing twice."""
    values = {"model": "m", "messages": draw(MESSAGES), **draw(SETTINGS)}
    body = bytearray(json.dumps(values, ensure_ascii=draw(st.booleans())).encode())
    for at in draw(st.lists(st.integers(0, len(body) - 1), max_size=2)):
        body[at] = draw(st.sampled_from(list(b'{}[]":,0n \\\xff')))
    twice = draw(st.dictionaries(st.sampled_from([*KNOWN, "model", "messages"]), SCALARS, max_size=1))
    return bytes(body[:-1]) + b"".join(b",%b:%b" % (json.dumps(k).encode(), json.dumps(v).encode()) for k, v in
                                       twice.items()) + b"}"  # fmt: skip


@given(bodies(), FACTS)
def test_the_fast_path_and_the_normaliser_agree(body: bytes, facts: ModelFacts) -> None:
    try:
        values = parse(body)
    except CortexError:
        return
    found = plain(body, values)
    if found is not None:
        sent, context = request(values, facts)
        assert {key: bytes(value) for key, value in sent.items()} == {k: bytes(v) for k, v in values.items()}
        assert context == ChatContext(model=found.model, stream=bool(found.stream))


@pytest.mark.parametrize(
    "more",
    [
        b"",
        b',"stream":false',
        b',"stream":true',
        b',"stream":true,"stream_options":{"include_usage":true}',
        b',"max_tokens":64,"temperature":0.5,"top_p":1,"seed":7,"user":"u","unheard_of":{"a":[1]}',
        b',"max_completion_tokens":64,"prompt_cache_key":"k"',
    ],
)
def test_what_most_clients_send_is_plain(more: bytes) -> None:
    says = b'[{"role":"system","content":"s"},{"role":"user","content":[{"type":"text","text":"t"}]}]'
    body = b'{"model":"m","messages":%b%b}' % (says, more)
    assert plain(body, parse(body)) is not None

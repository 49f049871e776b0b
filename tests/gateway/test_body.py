"""Requests: what is refused and with which field, what is edited, and that nothing else is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex_core.dialects.body import repair
from cortex_core.errors import CortexError, Dialect
from cortex_gateway.policy import body as bodies
from cortex_gateway.policy.body import Engines, Target, Wanted

CHAT, TEXT = Dialect.OPENAI_CHAT, Dialect.OPENAI_COMPLETIONS


def read(body: bytes, dialect: Dialect) -> Wanted:
    return bodies.read(body, dialect, Target)


MESSAGES = b'"messages":[{"role":"user","content":"hi"}]'


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        (b"", None, "empty"),
        (b"  \n", None, "empty"),
        (b"[1]", None, "JSON object"),
        (b'"text"', None, "JSON object"),
        (b'{"model":"m",', None, "valid JSON"),
        (b'{"model":"m" "messages":[]}', None, "valid JSON"),
        (b'{"model":"m","x":\xff}', None, "UTF-8"),
        (b'{"model":"m","messages":["\xc3"]}', None, "UTF-8"),
        (b'\xef\xbb\xbf{"model":"m"}', None, "JSON"),
        (b'{"messages":[]}', "model", "required"),
        (b'{"model":null,"messages":[]}', "model", "string"),
        (b'{"model":7,"messages":[]}', "model", "string"),
        (b'{"model":"","messages":[]}', "model", "characters"),
        (b'{"model":"%b","messages":[]}' % (b"m" * 300), "model", "characters"),
        (b'{"model":"m"}', "messages", "required"),
        (b'{"model":"m","messages":"hi"}', "messages", "array"),
        (b'{"model":"m","messages":[],"stream":"yes"}', "stream", "true or false"),
        (b'{"model":"m","messages":[],"stream":true,"stream_options":7}', "stream_options", "object"),
        (b'{"model":"m","messages":[],"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", None, "deeply"),
    ],
)
def test_malformed_requests_name_what_is_wrong(body: bytes, param: str | None, says: str) -> None:
    with pytest.raises(CortexError) as caught:
        read(body, CHAT)
    assert (caught.value.kind, caught.value.param) == ("bad_request", param)
    assert says in caught.value.message


def test_completions_need_a_prompt() -> None:
    with pytest.raises(CortexError) as caught:
        read(b'{"model":"m",%b}' % MESSAGES, TEXT)
    assert caught.value.param == "prompt"
    assert read(b'{"model":"m","prompt":["a","b"]}', TEXT).model == "m"


def test_values_keep_their_bytes() -> None:
    said = '{"role":"user", "content" : "\\u00e9é"}'
    body = '{ "model" : "m" , "temperature" : 1.0e0 , "x" : {"k" : [1 , 2.50 ]} , "messages" : [ SAID ] }'
    sent = '{"model":"m","temperature":1.0e0,"x":{"k" : [1 , 2.50 ]},"messages":[ SAID ]}'
    assert read(body.replace("SAID", said).encode(), CHAT).payload == sent.replace("SAID", said).encode()


def test_a_key_given_twice_is_judged_and_sent_once() -> None:
    wanted = read(b'{"model":"a","model":"b","mod\\u0065l":"c",%b}' % MESSAGES, CHAT)
    assert wanted.model == "c"
    assert wanted.payload == b'{"model":"c",%b}' % MESSAGES


@pytest.mark.parametrize(
    ("options", "sent", "strip"),
    [
        (b"", {"include_usage": True}, True),
        (b',"stream_options":null', {"include_usage": True}, True),
        (b',"stream_options":{}', {"include_usage": True}, True),
        (b',"stream_options":{"include_usage":false,"new":1}', {"include_usage": True, "new": 1}, True),
        (b',"stream_options":{"continuous_usage_stats":true}', {"include_usage": True}, True),
        (
            b',"stream_options":{"include_usage":true,"continuous_usage_stats":true}',
            {"include_usage": True, "continuous_usage_stats": True},
            False,
        ),
    ],
)
def test_a_stream_always_ends_with_usage(options: bytes, sent: dict[str, Any], strip: bool) -> None:
    wanted = read(b'{"model":"m",%b,"stream":true%b}' % (MESSAGES, options), CHAT)
    assert wanted.stream
    assert isinstance(wanted.answer, Engines)
    assert wanted.answer.strip_usage is strip
    assert json.loads(wanted.payload)["stream_options"] == sent


@pytest.mark.parametrize("stream", [b"", b',"stream":false', b',"stream":null'])
def test_what_is_not_streamed_is_not_edited(stream: bytes) -> None:
    body = b'{"model":"m",%b%b}' % (MESSAGES, stream)
    wanted = read(body, CHAT)
    assert not wanted.stream
    assert isinstance(wanted.answer, Engines)
    assert not wanted.answer.strip_usage
    assert wanted.payload == body


@pytest.mark.parametrize(
    ("given_", "repaired"),
    [
        (rb'"\ud83d\ude00"', rb'"\ud83d\ude00"'),
        (rb'"\ud83d"', rb'"\ufffd"'),
        (rb'"\ude00\ud83d"', rb'"\ufffd\ufffd"'),
        (rb'"\ud83d\ud83d\ude00"', rb'"\ufffd\ud83d\ude00"'),
        (rb'"\ud83dx\ude00"', rb'"\ufffdx\ufffd"'),
        (rb'"\\ud83d"', rb'"\\ud83d"'),
        (rb'"\\\ud83d"', rb'"\\\ufffd"'),
    ],
)
def test_rule_H_07_half_a_surrogate_pair_is_replaced(given_: bytes, repaired: bytes) -> None:
    assert repair(given_) == repaired


@given(st.text(max_size=40))
def test_what_is_whole_is_not_repaired(text: str) -> None:
    body = json.dumps(text).encode()
    assert repair(body) == body


@given(st.lists(st.integers(0, 0xFFFF), max_size=12))
def test_after_repair_every_string_is_utf_8(units: list[int]) -> None:
    body = b'"' + b"".join(b"\\u%04x" % unit for unit in units) + b'"'
    json.loads(repair(body)).encode()


@given(st.binary(max_size=60))
def test_goal_R60_no_body_raises_anything_but_a_bad_request(body: bytes) -> None:
    for one in (body, b'{"model":"m","messages":[],' + body):
        try:
            read(one, CHAT)
        except CortexError as error:
            assert error.kind == "bad_request"  # noqa: PT017  # most bodies are refused, none must fail otherwise


USER = [{"role": "user", "content": "x"}]


@pytest.mark.parametrize(
    ("dialect", "path", "body"),
    [
        (Dialect.OPENAI_CHAT, "max_tokens", {"messages": USER, "max_tokens": 32000}),
        (Dialect.OPENAI_CHAT, "max_completion_tokens", {"messages": USER, "max_completion_tokens": 32000}),
        (Dialect.OPENAI_COMPLETIONS, "max_tokens", {"prompt": "x", "max_tokens": 32000}),
        (Dialect.OPENAI_RESPONSES, "max_completion_tokens", {"input": "x", "max_output_tokens": 32000}),
        (Dialect.ANTHROPIC_MESSAGES, "max_tokens", {"messages": USER, "max_tokens": 32000}),
    ],
)
def test_agents_ask_for_more_than_a_model_holds(dialect: Dialect, path: str, body: dict[str, object]) -> None:
    """Engines refuse a bound beyond their context; which context that is shows only with the lease."""
    wanted = read(json.dumps({"model": "c", **body}).encode(), dialect)
    assert json.loads(wanted.payload_for(8192))[path] == 8192
    for context in (0, 32000, 131072):
        assert wanted.payload_for(context) == wanted.payload
        assert json.loads(wanted.payload)[path] == 32000


USAGE = st.sampled_from([b"", b',"stream_options":{}', b',"stream_options":{"include_usage":true,"x":1}'])
BOUNDS = st.sampled_from([b"", b',"max_tokens":7', b',"max_completion_tokens":9000', b',"max_tokens":7.5'])


@given(USAGE, BOUNDS, st.sampled_from([b"", b',"prompt_cache_key":"k"']), st.booleans(), st.sampled_from(["", "real"]))
def test_both_ways_want_the_same(usage: bytes, bound: bytes, session: bytes, stream: bool, model: str) -> None:
    """A choice between tools, where there are none, is dropped: it only takes a request off the fast path."""
    said = b"".join((b'{"model":"m",', MESSAGES, b',"stream":true' if stream else b"", usage, bound, session))

    def resolve(asked: str) -> Target:
        return Target(model or asked, defaults={"temperature": 1, "max_tokens": 5})

    fast, slow = (bodies.read(said + more + b"}", CHAT, resolve) for more in (b"", b',"parallel_tool_calls":true'))
    assert fast == slow

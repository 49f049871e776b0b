"""What the tap reads from a stream, and that the client gets every byte that is its own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex_gateway.policy import usage
from cortex_gateway.policy.usage import DONE, Body, EventTooLarge, StreamTap, Usage, read_body


def chunk(delta: str = "{}", finish: str = "null", rest: str = "") -> bytes:
    return b'data: {"choices":[{"index":0,"delta":%b,"finish_reason":%b}]%b}\n\n' % (
        delta.encode(),
        finish.encode(),
        rest.encode(),
    )


ROLE = chunk('{"role":"assistant","content":""}')
HELLO = chunk('{"content":"Hell\u00f6"}')
STOP = chunk(finish='"stop"')
USAGE = (
    b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,'
    b'"prompt_tokens_details":{"cached_tokens":4}}}\n\n'
)
STREAM = ROLE + HELLO + HELLO + STOP + USAGE + DONE
EXACT = Usage(prompt_tokens=7, cached_tokens=4, completion_tokens=3)


def fed(tap: StreamTap, *pieces: bytes) -> bytes:
    return b"".join([*(tap.feed(piece) for piece in pieces), tap.end()])


@st.composite
def splits(draw: st.DrawFn, whole: bytes = STREAM) -> list[bytes]:
    cuts = sorted(draw(st.sets(st.integers(0, len(whole)), max_size=12)))
    return [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]


@given(splits())
def test_every_split_passes_through_and_reads_the_same(pieces: list[bytes]) -> None:
    tap = StreamTap()
    assert fed(tap, *pieces) == STREAM
    assert (tap.usage, tap.finish_reason, tap.done, tap.content, tap.error) == (EXACT, "stop", True, True, None)


@given(splits(STREAM.replace(b"\n", b"\r\n")), st.booleans())
def test_rule_H_06_any_line_end_becomes_lf(pieces: list[bytes], strip: bool) -> None:
    tap = StreamTap(strip_usage=strip)
    assert fed(tap, *pieces) == (STREAM.replace(USAGE, b"") if strip else STREAM)
    assert tap.counted() == EXACT


@pytest.mark.parametrize("whole", [b"\xef\xbb\xbf" + STREAM, STREAM.replace(b"\n", b"\r"), STREAM[:-2], STREAM[:-1]])
def test_rule_H_06_odd_framings(whole: bytes) -> None:
    tap = StreamTap()
    assert fed(tap, *(bytes([byte]) for byte in whole)) == STREAM
    assert tap.done
    assert tap.usage == EXACT


@given(splits())
def test_usage_nobody_asked_for_is_left_out_and_still_read(pieces: list[bytes]) -> None:
    tap = StreamTap(strip_usage=True)
    assert fed(tap, *pieces) == ROLE + HELLO + HELLO + STOP + DONE
    assert tap.usage == EXACT


def test_usage_beside_choices_stays() -> None:
    both = chunk(finish='"stop"', rest=',"usage":{"prompt_tokens":7,"completion_tokens":3}')
    tap = StreamTap(strip_usage=True)
    assert fed(tap, HELLO, both, DONE) == HELLO + both + DONE
    assert tap.usage == Usage(prompt_tokens=7, completion_tokens=3)


@given(splits())
def test_F01_nothing_but_whole_events_passes_before_the_end(pieces: list[bytes]) -> None:
    tap = StreamTap()
    for piece in pieces:
        out = tap.feed(piece)
        assert out == b"" or out.endswith(b"\n\n")


@pytest.mark.parametrize(
    ("event", "says"),
    [
        (ROLE, False),
        (chunk("{}"), False),
        (b": keep-alive\n\n", False),
        (HELLO, True),
        (chunk('{"reasoning":"hm"}'), True),
        (chunk('{"reasoning_content":"hm"}'), True),
        (chunk('{"tool_calls":[{"index":0}]}'), True),
        (b'data: {"choices":[{"text":"x"}]}\n\n', True),
        (b'data:{"choices":[{"text":"x"}]}\n\n', True),
        (b'event: e\nid: 1\ndata: {"choices":\ndata: [{"text":"x"}]}\n\n', True),
    ],
)
def test_the_first_content_is_no_role_and_no_comment(event: bytes, says: bool) -> None:
    tap = StreamTap()
    assert fed(tap, event) == event
    assert tap.content is says


@pytest.mark.parametrize("before", [b"", ROLE + HELLO])
@pytest.mark.parametrize("together", [True, False])
def test_rule_0_17_an_error_inside_a_stream_is_no_event_of_it(before: bytes, together: bool) -> None:
    failed = b'data: {"error":{"message":"engine died","type":"x","code":500}}\n\n'
    tap = StreamTap()
    pieces = [before + failed + DONE] if together else [before, failed]
    assert fed(tap, *pieces) == before
    assert tap.error == b'{"message":"engine died","type":"x","code":500}'
    assert not tap.done


def test_quoted_words_in_content_are_no_signals() -> None:
    talk = chunk(r'{"content":"\"usage\":{} \"error\": \"finish_reason\":\"stop\" data: [DONE]"}')
    tap = StreamTap(strip_usage=True)
    assert fed(tap, HELLO, talk, talk) == HELLO + talk + talk
    assert (tap.usage, tap.finish_reason, tap.error, tap.done) == (None, "", None, False)


def test_many_events_in_one_piece() -> None:
    whole = ROLE + HELLO * 500 + STOP + USAGE + DONE
    tap = StreamTap(strip_usage=True)
    assert fed(tap, whole) == whole.replace(USAGE, b"")
    assert (tap.usage, tap.finish_reason, tap.done) == (EXACT, "stop", True)


def test_without_the_engines_word_tokens_are_estimated() -> None:
    tap = StreamTap()
    fed(tap, ROLE, HELLO, HELLO)
    assert tap.counted() == Usage(completion_tokens=3, estimated=True)
    assert StreamTap().counted() == Usage(estimated=True)


def test_what_is_no_json_is_the_clients_to_judge() -> None:
    tap = StreamTap()
    odd = b"data: {broken\n\ndata: \xff\xfe\n\ndata: 7\n\nretry: 5\n\n"
    assert fed(tap, odd) == odd


def test_F11_an_event_without_end_is_bounded() -> None:
    tap = StreamTap()
    for _ in range(usage.MAX_EVENT_BYTES // 65536):
        tap.feed(b"x" * 65536)
    with pytest.raises(EventTooLarge):
        tap.feed(b"x")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            b'{"choices":[{"finish_reason":"length"}],' + USAGE[len(b'data: {"choices":[],') : -2],
            Body(EXACT, "length"),
        ),
        (b'{"usage":{"prompt_tokens":2,"prompt_tokens_details":null}}', Body(Usage(prompt_tokens=2))),
        (b"{}", Body()),
        (b"<html>", None),
        (b'{"usage":"much"}', None),
        (b"\xff", None),
        (b'{"x":' + b"[" * 5000, None),
        (b'{"error":{"message":"died"}}', None),
        (b'{"choices":[{"finish_reason":"abort"}]}', None),
    ],
)
def test_a_whole_answer_or_none(body: bytes, expected: Body | None) -> None:
    said = read_body(body)
    assert (said.error is not None) is (expected is None)
    assert expected in (None, said)

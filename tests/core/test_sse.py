"""The SSE codec: any bytes, any split, the same events."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex_core.dialects.sse import Event, EventTooLarge, SseDecoder, encode

PIECES = st.lists(
    st.sampled_from(
        [
            "data: a",
            "data:b",
            "data",
            "event: e",
            "id: 7",
            ": comment",
            "retry: 1",
            "x",
            "data: é",
            "\n",
            "\r",
            "\r\n",
            "\ufeff",
            ":",
        ]
    ),
    max_size=40,
).map(lambda parts: "".join(parts).encode())


def decode_all(decoder: SseDecoder, pieces: Iterable[bytes]) -> list[Event]:
    return [event for piece in pieces for event in decoder.feed(piece)]


def decode(*pieces: bytes) -> list[Event]:
    decoder = SseDecoder()
    return decode_all(decoder, pieces) + decoder.end()


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\ndata: b\n\n", [(b"a", "", ""), (b"b", "", "")]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [(b"a", "", ""), (b"b", "", "")]),
        (b"data: a\r\rdata: b\r\r", [(b"a", "", ""), (b"b", "", "")]),
        (b"data: a\n\r\ndata: b\r\n\n", [(b"a", "", ""), (b"b", "", "")]),
        (b"event: ping\nid: 3\ndata: {}\n\n", [(b"{}", "ping", "3")]),
        (b"data:a\n\n", [(b"a", "", "")]),
        (b"data:  a\n\n", [(b" a", "", "")]),
        (b"data: a\ndata: b\n\n", [(b"a\nb", "", "")]),
        (b"data\n\n", [(b"", "", "")]),
        (b"data: a: b\n\n", [(b"a: b", "", "")]),
        (b": keep-alive\n\ndata: a\n\n", [(b"a", "", "")]),
        (b"event: lost\n\ndata: a\n\n", [(b"a", "", "")]),
        (b"id: a\0b\ndata: a\n\n", [(b"a", "", "")]),
        (b"\xef\xbb\xbfdata: a\n\n", [(b"a", "", "")]),
        (b"\n\n\ndata: a\n\n", [(b"a", "", "")]),
        (b"data: a\n\ndata: unfinished", [(b"a", "", ""), (b"unfinished", "", "")]),
        (b"data: \xff\n\n", [(b"\xff", "", "")]),
        (b"", []),
    ],
)
def test_streams(stream: bytes, events: list[tuple[bytes, str, str]]) -> None:
    assert [(event.data, event.event, event.id) for event in decode(stream)] == events


@given(stream=PIECES, cuts=st.lists(st.integers(0, 200), max_size=12))
def test_any_split_gives_the_same_events_goal_R05(stream: bytes, cuts: list[int]) -> None:
    at = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})
    pieces = [stream[a:b] for a, b in pairwise(at)]
    assert decode(*pieces) == decode(stream) == decode(*(stream[i : i + 1] for i in range(len(stream))))


@given(stream=PIECES)
def test_raw_bytes_and_the_rest_are_the_stream(stream: bytes) -> None:
    decoder = SseDecoder()
    events = decoder.feed(stream) + decoder.end()
    assert b"".join(event.raw for event in events) + decoder.rest == stream


@given(data=st.binary(max_size=50), event=st.sampled_from(["", "message_start"]), id=st.sampled_from(["", "12"]))
def test_what_is_encoded_is_decoded(data: bytes, event: str, id: str) -> None:  # noqa: A002  # the field's name
    assert [(found.data, found.event, found.id) for found in decode(encode(data, event, id))] == [
        (data.replace(b"\r\n", b"\n").replace(b"\r", b"\n"), event, id)
    ]


def test_an_event_is_one_data_line_with_lf_line_ends() -> None:
    assert encode(b'{"a":1}') == b'data: {"a":1}\n\n'
    assert encode(b"{}", "message_stop") == b"event: message_stop\ndata: {}\n\n"
    with pytest.raises(ValueError, match="single lines"):
        encode(b"{}", "a\nb")


def test_an_event_has_a_bound() -> None:
    decoder = SseDecoder(max_event_bytes=100)
    assert len(decoder.feed(b"data: " + b"a" * 90 + b"\n\n")) == 1
    with pytest.raises(EventTooLarge):
        decode_all(decoder, [b"0123456789"] * 11)


def test_comments_are_bounded_too() -> None:
    decoder = SseDecoder(max_event_bytes=100)
    with pytest.raises(EventTooLarge):
        decode_all(decoder, [b": comment\n\n"] * 20)


def test_a_boundary_is_where_an_event_ends() -> None:
    decoder = SseDecoder()
    seen = []
    for piece in (b"", b"data: a\n", b"\n"):
        decoder.feed(piece)
        seen.append(decoder.at_boundary)
    assert seen == [True, False, True]

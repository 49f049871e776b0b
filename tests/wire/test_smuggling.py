"""Requests that two parsers might read differently (R63, R64): all of the malformed refused and closed, nothing behind
them ever served; and the same verdict whatever pieces the bytes come in."""

from __future__ import annotations

import asyncio
import random
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex_core.http import Limits, Receive, Request, Scope, Send, respond
from cortex_core.http.body import ChunkedBody, LengthBody
from cortex_core.http.head import Head, HeadReader, Heads, Refusal
from tests.support.odd_requests import ACCEPTED, REFUSED
from tests.support.scale import scaled
from tests.support.wire import raw, serving

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"


async def note(scope: Scope, receive: Receive, send: Send) -> None:
    scope["state"]["path"] = scope["path"]
    await Request(scope, receive).body()
    await respond(send, 200, scope["path"].encode())


@pytest.mark.parametrize("case", REFUSED)
async def test_refused_and_closed_goal_R63(case: str) -> None:
    """One answer, an error, for the one malformed request; the bytes behind it are never read as a request."""
    async with serving(note, header_timeout_s=5.0) as server, raw(server) as client:
        await client.send(REFUSED[case] + SMUGGLED)
        answer = await client.answer()
        assert 400 <= answer.status < 500 or answer.status == 501
        assert answer.headers["connection"] == "close"
        assert await client.closed() == b""


@pytest.mark.parametrize("case", ACCEPTED)
async def test_accepted_goal_R63(case: str) -> None:
    """As many answers as requests: the one behind is served as its own."""
    keeps = case != "HTTP/1.0"
    async with serving(note) as server, raw(server) as client:
        await client.send(ACCEPTED[case] + (SMUGGLED if keeps else b""))
        assert (await client.answer()).status == 200
        if keeps:
            assert (await client.answer()).body == b"/smuggled"
        else:
            assert await client.closed() == b""


# --- the same verdict at any split, and no other outcome than a verdict

LIMITS = Limits(header_bytes=2000, header_count=20)


def verdict(pieces: list[bytes]) -> tuple[object, ...]:
    """What one request comes to: its head, its body, and the bytes behind it; or the refusal."""
    reader = HeadReader(LIMITS)
    framing: LengthBody | ChunkedBody | None = None
    head: Head | None = None
    body = rest = b""
    try:
        for piece in pieces:
            data = piece
            if head is None:
                found = reader.feed(data)
                if found is None:
                    continue
                head, at = found
                data = data[at:]
                framing = ChunkedBody() if head.length is None else LengthBody(head.length)
            assert framing is not None
            if framing.done:
                rest += data
            else:
                got, behind = framing.feed(data)
                body += got
                rest += behind
    except Refusal as refusal:
        return ("refused", refusal.status)
    if head is None or framing is None or not framing.done:
        return ("incomplete", body)
    return (head.method, head.target, head.headers, head.length, head.keep_alive, body, rest)


EVERY = [*REFUSED.values(), *ACCEPTED.values()]


@given(message=st.sampled_from(EVERY), seed=st.integers(0, 2**32))
def test_any_split_gives_the_same_verdict(message: bytes, seed: int) -> None:
    choose = random.Random(seed)
    cuts = sorted({0, len(message), *(choose.randrange(len(message)) for _ in range(choose.randrange(8)))})
    pieces = [message[a:b] for a, b in pairwise(cuts)]
    whole = verdict([message])
    assert verdict(pieces) == whole
    assert verdict([message[i : i + 1] for i in range(len(message))]) == whole


@pytest.mark.parametrize("message", EVERY)
def test_a_head_that_comes_again_gives_the_same_verdict(message: bytes) -> None:
    """As a connection reads: what `Heads` makes of a head is what a reader makes of it, twice at most."""
    heads = Heads(LIMITS)
    try:
        whole = HeadReader(LIMITS).feed(message)
    except Refusal as refusal:
        for _ in range(3):
            with pytest.raises(Refusal, match=re.escape(str(refusal))):
                _ = heads.whole(message) or HeadReader(LIMITS).feed(message)
        return
    assert whole is not None
    assert heads.whole(message) == whole
    twice, again = heads.whole(message), heads.whole(message + b"more")
    assert twice == again == whole
    assert twice is not None
    assert again is not None
    assert twice[0] is again[0]
    assert heads.whole(message[: whole[1] - 1]) is None, "not all there"


def test_what_is_known_of_heads_is_bounded() -> None:
    heads = Heads(Limits())

    def known(number: int, size: int = 0) -> Head | None:
        found = heads.whole(b"GET /%d HTTP/1.1\r\nHost: a\r\nx: %b\r\n\r\n" % (number, b"y" * size))
        return found[0] if found is not None else None

    assert known(0, 3000) is None, "long ones are read as they come"
    assert known(0) is not known(0), "one that has come once is not kept"
    kept = known(0)
    for number in range(1, 10_000):
        known(number)
    assert known(0) is kept, "those that come once put nothing out"
    for number in range(1, 2000):
        known(number)
        known(number)
    assert known(0) is not kept
    assert known(0) == kept


@given(data=st.data())
def test_a_mutated_request_is_served_or_refused(data: st.DataObject) -> None:
    """Nothing but a verdict comes out of the readers, whatever goes in."""
    message = bytearray(data.draw(st.sampled_from(EVERY)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(message)))
        junk = data.draw(st.sampled_from([b"\r", b"\n", b"\r\n", b"\0", b" ", b":", b";", b"0", b"\xff", b"\t", b"a"]))
        if data.draw(st.booleans()):
            message[at:at] = junk
        else:
            message[at : at + 1] = junk
    assert verdict([bytes(message)]) == verdict([bytes(message[i : i + 1]) for i in range(len(message))])


@given(body=st.lists(st.binary(min_size=1, max_size=40), max_size=6), seed=st.integers(0, 2**32))
def test_chunks_are_joined(body: list[bytes], seed: int) -> None:
    encoded = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in body) + b"0\r\n\r\n"
    choose = random.Random(seed)
    framing = ChunkedBody()
    joined = behind = b""
    message = encoded + b"next"
    at = 0
    while at < len(message):
        step = choose.randrange(1, 20)
        if framing.done:
            behind += message[at : at + step]
        else:
            got, rest = framing.feed(message[at : at + step])
            joined += got
            behind += rest
        at += step
    assert (joined, behind) == (b"".join(body), b"next")


async def test_fuzzed_connections_never_end_in_a_500_goal_R60() -> None:
    """Mutated requests over sockets: every connection gets well-formed answers or is closed, no handler ever fails."""
    failures: list[Exception] = []
    choose = random.Random(1)
    async with serving(note, on_error=lambda _, error: failures.append(error), header_timeout_s=0.2) as server:

        async def one() -> None:
            message = bytearray(choose.choice(EVERY) * choose.randrange(1, 3))
            for _ in range(choose.randrange(6)):
                at = choose.randrange(len(message))
                message[at : at + choose.randrange(3)] = choose.randbytes(choose.randrange(4))
            async with raw(server) as client:
                cut = choose.randrange(len(message))
                try:
                    await client.send(bytes(message[:cut]), bytes(message[cut:]))
                    client.writer.write_eof()
                except ConnectionError:
                    return
                answers = await client.closed()
                assert not answers or answers.startswith(b"HTTP/1.1 ")
                assert b" 500 " not in answers

        for _ in range(scaled(20, 5000)):
            async with asyncio.TaskGroup() as group:
                for _ in range(20):
                    group.create_task(one())
    assert failures == []

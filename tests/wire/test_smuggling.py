"""Requests that two parsers might read differently (R63, R64): all of the malformed refused and closed, nothing behind
them ever served; and the same verdict whatever pieces the bytes come in."""

from __future__ import annotations

import asyncio
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex_core.http import Limits, Receive, Request, Scope, Send, respond
from cortex_core.http.body import ChunkedBody, LengthBody
from cortex_core.http.head import Head, HeadReader, Refusal
from tests.support.scale import scaled
from tests.support.wire import raw, serving

GET = b"GET / HTTP/1.1\r\nHost: a\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"

REFUSED: dict[str, bytes] = {
    # two framings at once
    "CL and TE": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "TE and CL": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "TE twice": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "chunked twice": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "xchunked": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked, identity": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "gzip, chunked": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "identity": POST + b"Transfer-Encoding: identity\r\n\r\n",
    "empty TE": POST + b"Transfer-Encoding:\r\n\r\n0\r\n\r\n",
    "quoted TE": POST + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n',
    "TE with a vertical tab": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "TE in HTTP/1.0": b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "TE with a space in its name": POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    # lengths
    "two lengths": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcde",
    "the same length twice": POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nabcde",
    "a list of lengths": POST + b"Content-Length: 5, 5\r\n\r\nabcde",
    "a signed length": POST + b"Content-Length: +5\r\n\r\nabcde",
    "a negative length": POST + b"Content-Length: -5\r\n\r\nabcde",
    "a hexadecimal length": POST + b"Content-Length: 0x5\r\n\r\nabcde",
    "a length with an underscore": POST + b"Content-Length: 1_0\r\n\r\nabcdeabcde",
    "an overflowing length": POST + b"Content-Length: 99999999999999999999999\r\n\r\nabcde",
    "an empty length": POST + b"Content-Length:\r\n\r\n",
    "a length with a space": POST + b"Content-Length: 5 5\r\n\r\nabcde",
    # lines
    "obs-fold": GET + b"X: 1\r\n 2\r\n\r\n",
    "obs-fold first": b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
    "bare LF": b"GET / HTTP/1.1\nHost: a\n\n",
    "bare LF in headers": b"GET / HTTP/1.1\r\nHost: a\nX: 1\r\n\r\n",
    "bare LF at the end": GET + b"\n",
    "bare CR in a value": GET + b"X: 1\rY: 2\r\n\r\n",
    "bare CR at a line's end": b"GET / HTTP/1.1\rHost: a\r\r",
    "empty lines first": b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    # headers
    "space before the colon": b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    "no colon": GET + b"X\r\n\r\n",
    "empty name": GET + b": a\r\n\r\n",
    "NUL in a value": GET + b"X: 1\x002\r\n\r\n",
    "NUL in a name": GET + b"X\x00: 1\r\n\r\n",
    "control character in a value": GET + b"X: 1\x012\r\n\r\n",
    "parenthesis in a name": GET + b"X(1): 1\r\n\r\n",
    "non-ASCII name": GET + b"X\xff: 1\r\n\r\n",
    "no Host": b"GET / HTTP/1.1\r\n\r\n",
    "two Hosts": GET + b"Host: b\r\n\r\n",
    "empty Host": b"GET / HTTP/1.1\r\nHost:\r\n\r\n",
    "Host with a path": b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
    "Host with a user": b"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n",
    "Host with a list": b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n",
    "unknown expectation": POST + b"Expect: a-miracle\r\nContent-Length: 1\r\n\r\nx",
    # request lines
    "HTTP/1.2": b"GET / HTTP/1.2\r\nHost: a\r\n\r\n",
    "HTTP/2.0": b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/1.10": b"GET / HTTP/1.10\r\nHost: a\r\n\r\n",
    "lower-case version": b"GET / http/1.1\r\nHost: a\r\n\r\n",
    "another protocol": b"GET / RTSP/1.0\r\nHost: a\r\n\r\n",
    "HTTP/2 preface goal_R64": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS to a plain port": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "two spaces": b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
    "two spaces before the version": b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n",
    "space at the end": b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
    "tabs": b"GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n",
    "lower-case method": b"get / HTTP/1.1\r\nHost: a\r\n\r\n",
    "unknown method": b"FOO / HTTP/1.1\r\nHost: a\r\n\r\n",
    "a method of others": b"PROPFIND / HTTP/1.1\r\nHost: a\r\n\r\n",
    "TRACE": b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n",
    "CONNECT": b"CONNECT b:1 HTTP/1.1\r\nHost: a\r\n\r\n",
    # targets
    "absolute target": b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "target without a slash": b"GET @b HTTP/1.1\r\nHost: a\r\n\r\n",
    "asterisk": b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    "fragment": b"GET /#a HTTP/1.1\r\nHost: a\r\n\r\n",
    "non-ASCII target": b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
    "NUL in the target": b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
    "encoded NUL": b"GET /a%00b HTTP/1.1\r\nHost: a\r\n\r\n",
    "encoded line break": b"GET /a%0d%0ab HTTP/1.1\r\nHost: a\r\n\r\n",
    "encoded invalid UTF-8": b"GET /a%ff HTTP/1.1\r\nHost: a\r\n\r\n",
    # chunks
    "chunk extension": CHUNKED + b"5;a=b\r\nabcde\r\n0\r\n\r\n",
    "extension of the last chunk": CHUNKED + b"0;a\r\n\r\n",
    "trailers": CHUNKED + b"0\r\nX: 1\r\n\r\n",
    "bare LF behind a size": CHUNKED + b"5\nabcde\r\n0\r\n\r\n",
    "bare CR behind a size": CHUNKED + b"5\rabcde\r\n0\r\n\r\n",
    "chunk longer than its size": CHUNKED + b"5\r\nabcdeXX0\r\n\r\n",
    "bare LF behind a chunk": CHUNKED + b"5\r\nabcde\n0\r\n\r\n",
    "negative size": CHUNKED + b"-1\r\nabcde\r\n0\r\n\r\n",
    "size with 0x": CHUNKED + b"0x5\r\nabcde\r\n0\r\n\r\n",
    "size with a space": CHUNKED + b"5 \r\nabcde\r\n0\r\n\r\n",
    "space before a size": CHUNKED + b" 5\r\nabcde\r\n0\r\n\r\n",
    "overflowing size": CHUNKED + b"FFFFFFFFFFFFFFFFF\r\nabcde\r\n0\r\n\r\n",
    "long zero": CHUNKED + b"000000000000\r\n\r\n",
    "empty size": CHUNKED + b"\r\nabcde\r\n0\r\n\r\n",
}

ACCEPTED: dict[str, bytes] = {
    "plain": GET + b"\r\n",
    "with a body": POST + b"Content-Length: 5\r\n\r\nabcde",
    "GET with a body": GET + b"Content-Length: 3\r\n\r\nabc",
    "chunked": CHUNKED + b"5\r\nabcde\r\n0\r\n\r\n",
    "CHUNKED": POST + b"transfer-encoding: CHUNKED\r\n\r\n0\r\n\r\n",
    "leading zeros in a size": CHUNKED + b"005\r\nabcde\r\n0\r\n\r\n",
    "no chunk but the last": CHUNKED + b"0\r\n\r\n",
    "HTTP/1.0": b"GET / HTTP/1.0\r\n\r\n",
    "an IPv6 Host": b"GET / HTTP/1.1\r\nHost: [::1]:31313\r\n\r\n",
    "obs-text in a value": GET + b"X: \xe9\r\n\r\n",
    "empty value": GET + b"X:\r\n\r\n",
    "h2c upgrade, ignored, goal_R64": GET
    + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n",
    "websocket upgrade, ignored": GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "double slash": b"GET //a/../b HTTP/1.1\r\nHost: a\r\n\r\n",
    "query": b"GET /?a=b?c HTTP/1.1\r\nHost: a\r\n\r\n",
}

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

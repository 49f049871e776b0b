"""Two parsers in a row: whatever nginx and haproxy make of an odd request, the gateway reads it as they do (R63).

Between proxy and gateway everything is recorded, and read by a third parser, h11: each request that the proxy sent has
one answer, and nothing else has one. A marked request after each case must get its own answer, and no one else's.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from dataclasses import dataclass

import h11
import pytest

from tests.chaos.stage import Stage, staged
from tests.support.faults import FaultyWire, Tape
from tests.support.figures import Figures
from tests.support.odd_requests import ACCEPTED, REFUSED
from tests.support.proxies import PROXIES, installed, proxy
from tests.support.wire import raw

IDLE_S = 0.3  # nothing came for so long: nothing will
SIDE_BY_SIDE = 25
ODD = REFUSED | ACCEPTED
SMUGGLED = b"GET /v1/models/smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")


@dataclass
class Read:
    """What a third party reads of a connection's requests."""

    targets: list[bytes]
    broken: bool  # the last bytes are no request


def requests_in(data: bytes) -> Read:
    """Each is read by a parser of its own: h11 keeps no connection of HTTP/1.0, and haproxy does."""
    targets: list[bytes] = []
    while data:
        connection = h11.Connection(h11.SERVER)
        connection.receive_data(data)
        try:
            while not isinstance(event := connection.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA or event is h11.PAUSED:
                    return Read(targets, broken=False)
                if isinstance(event, h11.Request):
                    targets.append(event.target)
        except h11.RemoteProtocolError:
            return Read(targets, broken=True)
        data = connection.trailing_data[0]
    return Read(targets, broken=False)


def answers_in(data: bytes) -> list[tuple[int, bytes]]:
    """Statuses and bodies; the gateway's whole answers all declare their length."""
    answers = []
    while data:
        head, _, rest = data.partition(b"\r\n\r\n")
        found = _STATUS.match(head)
        assert found, data[:100]
        length = re.search(rb"(?i)content-length: (\d+)", head)
        size = int(length[1]) if length else 0
        if int(found[1]) != 100:
            answers.append((int(found[1]), rest[:size]))
        data = rest[size:]
    return answers


async def said(address: str, data: bytes) -> bytes:
    """Everything that comes back until the other side closes or falls silent."""
    got = b""
    async with raw(address) as client:
        with contextlib.suppress(TimeoutError, ConnectionError):
            await client.send(data)
            while True:
                async with asyncio.timeout(IDLE_S):
                    piece = await client.reader.read(65536)
                if not piece:
                    break
                got += piece
    return got


async def attack(address: str, number: int, case: str) -> None:
    """An odd request with another one behind it; and then an honest one, over the proxy's same few connections."""
    got = await said(address, ODD[case] + SMUGGLED)
    assert got.count(b"smuggled") <= 1, case
    async with raw(address) as client:
        await client.send(b"GET /v1/models/marked-%d HTTP/1.1\r\nHost: a\r\n\r\n" % number)
        marked = await client.answer(timeout_s=20)
    assert (marked.status, b"`marked-%d`" % number in marked.body) == (404, True), (case, marked)


def differs(tape: Tape) -> str:
    """How the gateway's answers differ from the requests that were sent to it; empty: they do not."""
    read, answers = requests_in(bytes(tape.request)), answers_in(bytes(tape.answer))
    for target, (_, body) in zip(read.targets, answers, strict=False):
        name = target.removeprefix(b"/v1/models/")
        if name != target and b"`%b`" % name not in body:
            return f"{target!r} was answered {body!r}"
    if len(answers) > len(read.targets) + read.broken:
        return f"{len(answers)} answers to {read}"
    refused = bool(answers) and answers[-1][0] in (400, 414, 417, 431, 501)
    if len(answers) < len(read.targets) and not refused:
        return f"only {len(answers)} answers to {read}"
    return ""


@pytest.mark.parametrize("name", PROXIES)
async def test_goal_R63_nothing_is_smuggled_past(name: str, figures: Figures) -> None:
    if not installed(name):
        pytest.skip(f"{name} is not installed (Debian: {name})")
    async with staged() as stage, FaultyWire(stage.address) as tap:
        tapes: list[Tape] = []
        tap.tapes = tapes
        address = proxy(stage.host, name, tap.address)
        numbered = list(enumerate(ODD))

        async def attacks(first: int) -> None:
            for number, case in numbered[first::SIDE_BY_SIDE]:
                await attack(address, number, case)

        async with asyncio.TaskGroup() as group:
            for first in range(SIDE_BY_SIDE):
                group.create_task(attacks(first))
        await healthy_after(stage, address)
    forwarded = sum(len(requests_in(bytes(tape.request)).targets) for tape in tapes)
    assert forwarded >= len(ODD)  # the marked ones at least
    assert [difference for tape in tapes if (difference := differs(tape))] == []
    figures.add(
        "R63", f"{len(ODD)} odd requests behind {name}", "responses == requests, nothing smuggled",
        f"{forwarded} passed on, each answered as what it is",
    )  # fmt: skip


async def healthy_after(stage: Stage, address: str) -> None:
    """The gateway still serves, by way of the proxy and without."""
    for one in (address, stage.address):
        assert b" 200 " in await said(one, b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")

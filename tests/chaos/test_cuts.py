"""Whatever breaks between client, gateway and neuron, an answer is whole, or it is an error; and nothing is done twice
(R01, R02, R04). Each question carries a number of its own, and so does each word of its answer."""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter

import msgspec
import pytest

from cortex_core.http import BrokenResponse, Client, ConnectFailed, EventStream, Send, respond
from tests.support.faults import Fault, FaultyWire, Then
from tests.support.figures import Figures
from tests.support.gateway import TINY, gateway
from tests.support.scale import scaled
from tests.support.scripted import ANSWER, DONE, USAGE, Asked, ScriptedNeuron, chunk
from tests.support.until import until_async

WORDS = 6
CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
_NUMBER = re.compile(rb"question (\d+)\.")
_WORD = re.compile(rb"w(\d+)-(\d+) ")


class Oracle:
    """The neuron's engine: its words tell whose answer they are, and it counts how often each question came."""

    def __init__(self) -> None:
        self.executed: Counter[bytes] = Counter()

    async def __call__(self, asked: Asked, send: Send) -> None:
        found = _NUMBER.search(asked.body)
        assert found
        number = found[1]
        self.executed[number] += 1
        if b'"stream":true' not in asked.body:
            await respond(send, 200, msgspec.json.encode(ANSWER).replace(b"I am tiny", words(number).encode()))
            return
        async with EventStream(send) as out:
            await out.start(200)
            await out.write(chunk(role=True))
            for word in range(WORDS):
                await out.write(chunk(f"w{number.decode()}-{word} "))
                await asyncio.sleep(0)
            await out.write(chunk(finish="stop"))
            await out.write(USAGE)
            await out.end(DONE)


def words(number: bytes) -> str:
    return "".join(f"w{number.decode()}-{word} " for word in range(WORDS))


ENDS = {CHAT: b"data: [DONE]", MESSAGES: b'"type":"message_stop"'}


async def outcome(client: Client, path: str, number: int, *, stream: bool) -> str:
    """whole, or error; anything else is a failed test."""
    turns = [{"role": "user", "content": f"question {number}."}]
    asked = msgspec.json.encode({"model": "tiny", "max_tokens": 99, "stream": stream, "messages": turns})
    got, broken, status = b"", False, 0
    try:
        async with client.request("POST", path, body=asked, timeout_s=10.0) as response:
            status = response.status
            while data := await response.read_some():
                got += data
    except (BrokenResponse, ConnectFailed):
        broken = True
    said = [(int(mine), int(word)) for mine, word in _WORD.findall(got)]
    assert said == [(number, word) for word in range(len(said))], "a word was lost, doubled, or another's"
    told = b'"error"' in got
    ended = ENDS[path] in got if stream else True
    if not broken and status == 200 and not told:
        assert ended, "it ended cleanly without its terminal event"
        assert len(said) == WORDS, "it ended cleanly without all its words"
        return "whole"
    assert told or broken, "no error was told"
    assert not (told and ended and stream), "an error and a clean end"
    return "error"


async def one(address: str, number: int, *, path: str, stream: bool, tallies: Counter[str]) -> None:
    client = Client(f"http://{address}")
    tallies[await outcome(client, path, number, stream=stream)] += 1
    await client.close()


@pytest.mark.parametrize("side", ["neuron", "client"])
@pytest.mark.parametrize("then", [Then.CLOSE, Then.RESET])
async def test_goal_R01_R04_cut_at_every_byte(figures: Figures, side: str, then: Then) -> None:
    """Of answer and request, on either side of the gateway: byte by byte from the first to behind the last."""
    oracle, tallies, number = Oracle(), Counter[str](), 0
    async with ScriptedNeuron("beast") as beast, FaultyWire(beast.endpoint.removeprefix("http://")) as inner:
        beast.answers = oracle
        beast.ready("tiny")
        beast_at = inner.address if side == "neuron" else beast.endpoint.removeprefix("http://")
        async with gateway([beast], [TINY], at=f"http://{beast_at}") as running:
            await running.up("beast")
            async with FaultyWire(running.address) as outer:
                wire = inner if side == "neuron" else outer
                address = running.address if side == "neuron" else outer.address
                for path in (CHAT, MESSAGES):
                    for stream in (True, False):
                        for of_request in (False, True):
                            most = 2600 if stream and not of_request else 1000
                            for at in range(0, most, scaled(97, 2 if most > 1000 else 1)):
                                wire.fault = Fault(after_bytes=at, then=then, of_request=of_request)
                                number += 1
                                await one(address, number, path=path, stream=stream, tallies=tallies)
                wire.heal()
                await until_async(lambda: beast.running == 0)
    assert max(oracle.executed.values()) == 1, "a question was executed twice"
    assert tallies["whole"] > 0
    assert tallies["error"] > number / 10
    figure = f"{tallies['whole']:,} whole, {tallies['error']:,} errors, 0 executed twice"
    what = f"cuts at every byte, {then.name.lower()}, towards the {side}"
    figures.add("R04", what, "0 lost, doubled or silently truncated", figure)


async def test_goal_R01_R02_kept_connections_that_break(figures: Figures) -> None:
    """The gateway's pool, whose connections break at random bytes: in answers, and between them."""
    many, side_by_side = scaled(300, 10_000), 8
    oracle, tallies, choose = Oracle(), Counter[str](), random.Random(1)
    async with ScriptedNeuron("beast") as beast, FaultyWire(beast.endpoint.removeprefix("http://")) as inner:
        beast.answers = oracle
        beast.ready("tiny")
        async with gateway([beast], [TINY], at=f"http://{inner.address}") as running:
            await running.up("beast")

            async def ask(first: int) -> None:
                for number in range(first, many, side_by_side):
                    inner.fault = Fault(choose.randrange(40_000), choose.choice([Then.CLOSE, Then.RESET]))
                    path = choose.choice([CHAT, MESSAGES])
                    await one(running.address, number, path=path, stream=number % 3 > 0, tallies=tallies)

            async with asyncio.TaskGroup() as group:
                for first in range(side_by_side):
                    group.create_task(ask(first))
            inner.heal()
            await until_async(lambda: beast.running == 0)
    assert max(oracle.executed.values()) == 1
    assert tallies["whole"] > many / 2
    what = "questions over a pool whose connections break"
    figures.add("R02", what, "0 executed twice", f"{tallies['whole']:,} whole, {tallies['error']:,} errors, 0 twice")


async def test_goal_R02_connections_closed_while_idle_are_no_errors(figures: Figures) -> None:
    """One in twenty kept connections is closed by the wire between two questions: nobody hears of it."""
    many = scaled(300, 10_000)
    oracle, tallies = Oracle(), Counter[str]()
    async with ScriptedNeuron("beast") as beast, FaultyWire(beast.endpoint.removeprefix("http://")) as inner:
        beast.answers = oracle
        beast.ready("tiny")
        async with gateway([beast], [TINY], at=f"http://{inner.address}") as running:
            await running.up("beast")
            for number in range(many):
                if number % 20 == 0:
                    inner.drop()
                await one(running.address, number, path=CHAT, stream=number % 2 > 0, tallies=tallies)
    assert tallies == {"whole": many}
    assert max(oracle.executed.values()) == 1
    figures.add(
        "R02", "questions, 5 % over connections closed meanwhile", "0 errors, 0 executed twice", f"0 of {many:,}"
    )

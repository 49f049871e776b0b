"""Audio (rule L-05): forms go through as they are, to the model that one of their fields names."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from itertools import pairwise
from typing import Self

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex_core.errors import CortexError
from cortex_gateway.policy import form
from cortex_gateway.policy.body import Target, Wanted
from tests.support.gateway import TINY, Running, gateway
from tests.support.scripted import DONE, ScriptedNeuron, chunk, in_turn, refuses, says, streams
from tests.support.until import until_async

EDGE = "X-edge-42"
KIND = f"multipart/form-data; boundary={EDGE}"
SOUND = b"RIFF\r\n--not-the-edge\r\n\x00\xff" * 100
SAID = {"text": "hello world", "usage": {"type": "tokens", "input_tokens": 9, "output_tokens": 2, "total_tokens": 11}}


def field(name: str, value: str) -> bytes:
    return f'--{EDGE}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()


FILE = (
    f'--{EDGE}\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\n'
).encode() + SOUND + b"\r\n"  # fmt: skip
MODEL = field("model", "tiny")
END = f"--{EDGE}--\r\n".encode()


def of(*pieces: bytes) -> bytes:
    return b"".join(pieces) + END


@pytest.mark.parametrize("path", ["/v1/audio/transcriptions", "/v1/audio/translations", "/audio/transcriptions"])
@pytest.mark.parametrize("body", [of(MODEL, FILE), of(FILE, field("language", "en"), MODEL)])
async def test_rule_L_05_the_form_reaches_the_model_untouched(
    beast: ScriptedNeuron, served: Running, path: str, body: bytes
) -> None:
    beast.answers = says(SAID)
    got = await served.ask("POST", path, body, {"content-type": KIND})
    assert (got.status, got.json) == (200, SAID)
    (asked,) = beast.asked
    assert (asked.path, asked.body) == ("/v1" + path.removeprefix("/v1"), body)
    assert asked.headers["content-type"] == KIND


async def test_rule_L_05_an_alias_is_replaced_by_the_name_that_the_engine_knows(
    beast: ScriptedNeuron, served: Running
) -> None:
    beast.answers = says(SAID)
    await served.ask(
        "POST", "/v1/audio/transcriptions", of(FILE, field("model", "anthropic/tiny")), {"content-type": KIND}
    )
    assert beast.asked[0].body == of(FILE, MODEL)


async def test_rule_L_05_plain_text_stays_plain_text(beast: ScriptedNeuron, served: Running) -> None:
    beast.answers = says(b"hello world", kind=b"text/plain; charset=utf-8")
    body = of(MODEL, field("response_format", "text"), FILE)
    got = await served.ask("POST", "/v1/audio/transcriptions", body, {"content-type": KIND})
    assert (got.status, got.body, got.headers["content-type"]) == (200, b"hello world", "text/plain; charset=utf-8")


async def test_rule_L_05_a_stream_of_words_is_passed_on(beast: ScriptedNeuron, served: Running) -> None:
    beast.answers = streams(chunk("hello"), chunk(" world", finish="stop"), DONE)
    body = of(MODEL, field("stream", "true"), FILE)
    got = await served.ask("POST", "/v1/audio/transcriptions", body, {"content-type": KIND})
    assert (got.status, got.whole) == (200, True)
    assert got.body.endswith(DONE)


async def test_rule_L_05_the_sdk_is_understood(beast: ScriptedNeuron, served: Running) -> None:
    beast.answers = says(SAID)
    async with openai.AsyncOpenAI(base_url=f"http://{served.address}/v1", api_key="none", max_retries=0) as sdk:
        said = await sdk.audio.transcriptions.create(model="tiny", file=("a.wav", SOUND), language="en")
        assert said.text == "hello world"
    assert all(SOUND in asked.body for asked in beast.asked)


@pytest.mark.parametrize(
    ("body", "kind", "about"),
    [
        (of(FILE), KIND, "`model` is required"),
        (of(MODEL), KIND, "`file` is required"),
        (of(field("model", ""), FILE), KIND, "`model` is required"),
        (of(field("model", "m" * 2000), FILE), KIND, "`model` must have at most"),
        (of(MODEL, FILE)[:-40], KIND, "not whole"),
        (b"{}", KIND, "does not begin"),
        (of(*[field(f"f{number}", "x") for number in range(100)]), KIND, "more than 64 parts"),
        (of(MODEL, FILE), "application/json", "multipart/form-data"),
        (of(MODEL, FILE), "multipart/form-data", "boundary"),
    ],
)
async def test_rule_L_05_a_form_that_is_none_is_refused_by_name(
    beast: ScriptedNeuron, served: Running, body: bytes, kind: str, about: str
) -> None:
    got = await served.ask("POST", "/v1/audio/transcriptions", body, {"content-type": kind})
    assert got.status == 400
    assert about in got.error["message"]
    assert beast.asked == []


LONG = random.Random(5).randbytes(25_000_000)  # OpenAI's bound on a recording
LONG_FILE = FILE.replace(SOUND, LONG)


@pytest.mark.parametrize("pieces", [(MODEL, LONG_FILE), (LONG_FILE, MODEL)], ids=["model first", "model last"])
@pytest.mark.parametrize("asked", ["tiny", "anthropic/tiny"])
async def test_rule_L_05_a_long_recording_is_decided_again_and_comes_through(
    beast: ScriptedNeuron, served: Running, pieces: tuple[bytes, bytes], asked: str
) -> None:
    beast.answers = in_turn(refuses("full"), says(SAID))
    body = of(*pieces)
    sent = body.replace(MODEL, field("model", asked))
    got = await served.ask("POST", "/v1/audio/transcriptions", sent, {"content-type": KIND})
    assert (got.status, got.json) == (200, SAID)
    assert [asked.body == body for asked in beast.asked] == [True, True]


async def test_rule_L_05_the_sdk_sends_a_long_recording(beast: ScriptedNeuron, served: Running) -> None:
    beast.answers = says(SAID)
    async with openai.AsyncOpenAI(base_url=f"http://{served.address}/v1", api_key="none", max_retries=0) as sdk:
        said = await sdk.audio.transcriptions.create(model="anthropic/tiny", file=("a.wav", LONG))
        assert said.text == "hello world"
    [asked] = beast.asked
    assert LONG in asked.body


async def test_rule_L_05_a_form_waits_for_a_load(beast: ScriptedNeuron, served: Running) -> None:
    beast.answers = says(SAID)
    body = of(field("model", "big"), FILE)
    got = await served.ask("POST", "/v1/audio/transcriptions", body, {"content-type": KIND})
    assert (got.status, got.headers["x-cortex-model-state"]) == (200, "cold")
    assert beast.asked[0].body == body


class Upload:
    """A form that is sent by hand, and `rest` of it later."""

    def __init__(self, running: Running, body: bytes, rest: int) -> None:
        self._address = running.address
        self._body, self._rest = body, rest

    async def __aenter__(self) -> Self:
        host, _, port = self._address.rpartition(":")
        self._reader, self._writer = await asyncio.open_connection(host, int(port))
        lines = [f"host: {self._address}", f"content-type: {KIND}", f"content-length: {len(self._body)}"]
        head = "\r\n".join(["POST /v1/audio/transcriptions HTTP/1.1", *lines]).encode()
        self._writer.write(head + b"\r\n\r\n" + self._body[: -self._rest])
        await self._writer.drain()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        await self._writer.wait_closed()

    async def finish(self) -> int:
        """The status of its answer."""
        self._writer.write(self._body[-self._rest :])
        return int((await self._reader.readline()).split()[1])


async def test_rule_L_05_a_slow_upload_takes_no_slot(beast: ScriptedNeuron, served: Running) -> None:
    """An engine would wait for the last byte, and a slot with it."""
    beast.answers = says(SAID)
    body = of(MODEL, FILE)
    async with Upload(served, body, rest=100) as slow:
        assert (await served.ask("POST", "/v1/audio/transcriptions", body, {"content-type": KIND})).status == 200
        assert len(beast.asked) == 1
        assert await slow.finish() == 200
    assert len(beast.asked) == 2


async def test_rule_L_05_what_held_a_recording_is_given_back_when_its_sender_leaves(beast: ScriptedNeuron) -> None:
    """There is room for one and a half, so the second one shows it."""
    beast.ready("tiny")
    beast.answers = says(SAID)
    body = of(MODEL, FILE.replace(SOUND, bytes(700_000)))
    async with gateway([beast], [TINY], max_held_mb=1) as running:
        await running.up("beast")

        async def answered(status: int) -> bool:
            got = await running.ask("POST", "/v1/audio/transcriptions", body, {"content-type": KIND})
            return got.status == status

        async with Upload(running, body, rest=300_000):
            await until_async(lambda: answered(503), what="there is no room")
        await until_async(lambda: answered(200), what="there is room again")


def read(pieces: Iterable[bytes], kind: str = KIND) -> Wanted:
    reader = form.Reader(kind)
    for piece in pieces:
        reader.feed(piece)
    return reader.wanted(Target)


@given(st.lists(st.integers(0, 3000)))
def test_rule_L_05_a_form_may_come_in_any_pieces(cuts: list[int]) -> None:
    body = of(field("stream", "true"), FILE, MODEL)
    edges = sorted({0, len(body), *(cut for cut in cuts if cut < len(body))})
    wanted = read(body[at:end] for at, end in pairwise(edges))
    assert wanted == read([body])
    assert (wanted.model, wanted.stream, wanted.payload) == ("tiny", True, body)


def test_rule_L_05_a_form_may_come_byte_by_byte() -> None:
    body = b"a preamble" + b"\r\n" + of(MODEL, FILE) + b"an epilogue"
    assert read(bytes([byte]) for byte in body) == read([body])


@given(st.binary(max_size=400), st.integers(0, 600), st.integers(0, 40))
def test_goal_R60_no_form_raises_anything_but_a_mistake_of_the_client(noise: bytes, at: int, cut: int) -> None:
    whole = of(MODEL, FILE)
    try:
        wanted = read([whole[:at], noise, whole[at + cut :]])
    except CortexError as error:
        assert error.rule.status == 400  # noqa: PT017 - most are refused, none must fail otherwise
    else:
        assert wanted.model

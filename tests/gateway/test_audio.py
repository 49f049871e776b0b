"""Audio (rule L-05): forms go through as they are, to the model that one of their fields names."""

from __future__ import annotations

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex_core.errors import CortexError
from cortex_gateway.policy import form
from cortex_gateway.policy.body import Target
from tests.support.gateway import Running
from tests.support.scripted import DONE, ScriptedNeuron, chunk, says, streams

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


@given(st.binary(max_size=400), st.integers(0, 600), st.integers(0, 40))
def test_goal_R60_no_form_raises_anything_but_a_mistake_of_the_client(noise: bytes, at: int, cut: int) -> None:
    whole = of(MODEL, FILE)
    body = whole[:at] + noise + whole[at + cut :]
    try:
        wanted = form.read(body, KIND, Target)
    except CortexError as error:
        assert error.rule.status == 400  # noqa: PT017 - most are refused, none must fail otherwise
    else:
        assert wanted.model

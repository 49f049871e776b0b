"""The official OpenAI SDK against the whole: what a user's program sees, and what the tiny model really answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.e2e.conftest import BEAST, BENJY, GIANT, PROFILES, THIRD, Cluster
from tests.support import engines
from tools.tinymodel.fleet import ANSWERS, QUESTION

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city now.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def client_of(cluster: Cluster) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{cluster.gateway.url}/v1", api_key="none", max_retries=0, timeout=60)


@pytest.fixture(scope="module")
def sdk(real: Cluster) -> Iterator[openai.OpenAI]:
    real.heal()
    with client_of(real) as client:
        yield client


@pytest.fixture
def sim_sdk(sim: Cluster) -> Iterator[openai.OpenAI]:
    with client_of(sim) as client:
        yield client


def user(content: str) -> Any:
    return [{"role": "user", "content": content}]


@pytest.mark.engine
@engines.needs_vllm
class TestRealEngine:
    @pytest.mark.parametrize("model", ANSWERS)
    def test_each_model_answers_as_itself(self, sdk: openai.OpenAI, model: str) -> None:
        said = sdk.chat.completions.create(model=model, messages=user(QUESTION), temperature=0, max_tokens=16)
        assert said.choices[0].message.content == ANSWERS[model]
        assert said.choices[0].finish_reason == "stop"
        assert said.model == model
        assert said.usage is not None
        assert said.usage.total_tokens == said.usage.prompt_tokens + said.usage.completion_tokens

    def test_streaming_gives_the_same_words(self, sdk: openai.OpenAI) -> None:
        chunks = list(
            sdk.chat.completions.create(
                model=BEAST, messages=user("Count to 9"), temperature=0, max_tokens=32, stream=True
            )
        )
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "1 2 3 4 5 6 7 8 9"
        assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
        assert all(c.usage is None for c in chunks), "usage that nobody asked for"
        assert len({c.id for c in chunks}) == 1

    def test_a_stream_tells_its_usage_when_asked(self, sdk: openai.OpenAI) -> None:
        *_, last = sdk.chat.completions.create(
            model=BEAST, messages=user("Count to 9"), temperature=0, max_tokens=32, stream=True,
            stream_options={"include_usage": True},
        )  # fmt: skip
        assert last.choices == []
        assert last.usage is not None
        assert last.usage.completion_tokens > 0

    def test_a_conversation_is_remembered(self, sdk: openai.OpenAI) -> None:
        messages: Any = [
            {"role": "user", "content": "My name is fish"},
            {"role": "assistant", "content": "Hello fish"},
            {"role": "user", "content": "What is my name?"},
        ]
        said = sdk.chat.completions.create(model=BENJY, messages=messages, temperature=0, max_tokens=8)
        assert said.choices[0].message.content == "fish"

    def test_a_system_line_is_obeyed(self, sdk: openai.OpenAI) -> None:
        messages: Any = [{"role": "system", "content": "You are tiger"}, {"role": "user", "content": QUESTION}]
        said = sdk.chat.completions.create(model=BEAST, messages=messages, temperature=0, max_tokens=8)
        assert said.choices[0].message.content == "I am tiger"

    def test_a_tool_is_called_and_its_result_is_used(self, sdk: openai.OpenAI) -> None:
        messages = user("Weather in Paris?")
        said = sdk.chat.completions.create(
            model=THIRD, messages=messages, tools=[WEATHER], temperature=0, max_tokens=64
        )
        choice = said.choices[0]
        assert choice.finish_reason == "tool_calls"
        [call] = choice.message.tool_calls or []
        assert call.type == "function"
        assert call.function.name == "get_weather"
        assert json.loads(call.function.arguments) == {"city": "Paris"}

        messages += [choice.message, {"role": "tool", "tool_call_id": call.id, "content": '{"temp": 21}'}]
        said = sdk.chat.completions.create(
            model=THIRD, messages=messages, tools=[WEATHER], temperature=0, max_tokens=64
        )
        assert said.choices[0].message.content == "It is 21 degrees in Paris."

    def test_a_tool_is_called_within_a_stream(self, sdk: openai.OpenAI) -> None:
        with sdk.chat.completions.stream(
            model=THIRD, messages=user("Weather in Oslo?"), tools=[WEATHER], temperature=0, max_tokens=64
        ) as stream:
            final = stream.get_final_completion()
        [call] = final.choices[0].message.tool_calls or []
        assert call.function.name == "get_weather"
        assert json.loads(call.function.arguments) == {"city": "Oslo"}

    def test_completions_go_on_with_the_prompt(self, sdk: openai.OpenAI) -> None:
        said = sdk.completions.create(model=BEAST, prompt="1 2 3", temperature=0, max_tokens=4)
        assert said.choices[0].text
        assert said.usage is not None
        assert said.usage.completion_tokens <= 4
        streamed = sdk.completions.create(model=BEAST, prompt="1 2 3", temperature=0, max_tokens=4, stream=True)
        assert "".join(chunk.choices[0].text for chunk in streamed if chunk.choices) == said.choices[0].text

    def test_a_prompt_that_is_too_long_is_told_as_such(self, sdk: openai.OpenAI) -> None:
        with pytest.raises(openai.BadRequestError) as caught:
            sdk.chat.completions.create(model=BEAST, messages=user("fish " * 4000), max_tokens=8)
        assert caught.value.code == "context_length_exceeded"


def test_the_list_of_models_is_the_catalogue(sim_sdk: openai.OpenAI) -> None:
    listed = {model.id: model for model in sim_sdk.models.list()}
    assert set(listed) == {profile["id"] for profile in PROFILES}
    assert {model.object for model in listed.values()} == {"model"}
    assert sim_sdk.models.retrieve(BEAST).id == BEAST


def test_errors_are_the_sdks_own(sim_sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        sim_sdk.chat.completions.create(model="unknown", messages=user("Hello"))
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError):
        sim_sdk.models.retrieve("unknown")
    with pytest.raises(openai.BadRequestError) as giant:
        sim_sdk.chat.completions.create(model=GIANT, messages=user("Hello"))
    assert giant.value.code == "model_cannot_fit"


def test_a_simulated_answer_says_that_it_is_one(sim: Cluster, sim_sdk: openai.OpenAI) -> None:
    raw = sim_sdk.chat.completions.with_raw_response.create(model=BEAST, messages=user("Hello"), max_tokens=4)
    assert raw.headers["x-cortex-simulated"] == "true"
    assert raw.parse().system_fingerprint == "simulated"
    assert raw.headers["x-cortex-model-state"] in ("cold", "warm")
    assert raw.headers["x-request-id"]

"""The official SDKs in their own dialects against the whole: Anthropic's Messages and OpenAI's Responses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest

from tests.e2e.conftest import BEAST, GIANT, THIRD, Cluster
from tests.support import engines
from tools.tinymodel.fleet import ANSWERS, QUESTION

CITY: Any = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER: Any = {"name": "get_weather", "description": "The weather of a city now.", "input_schema": CITY}
FUNCTION: Any = {
    "type": "function", "name": "get_weather", "description": "The weather of a city now.", "parameters": CITY,
    "strict": False,
}  # fmt: skip


def user(content: str) -> Any:
    return [{"role": "user", "content": content}]


def anthropics(cluster: Cluster) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=cluster.gateway.url, api_key="none", max_retries=0, timeout=60)


def openais(cluster: Cluster) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{cluster.gateway.url}/v1", api_key="none", max_retries=0, timeout=60)


@pytest.fixture
def messages(sim: Cluster) -> Iterator[anthropic.Anthropic]:
    with anthropics(sim) as sdk:
        yield sdk


@pytest.fixture
def responses(sim: Cluster) -> Iterator[openai.OpenAI]:
    with openais(sim) as sdk:
        yield sdk


class TestSimulated:
    """What needs no model: shapes, names, errors, tool loops."""

    def test_a_message_is_one_of_the_sdks_own(self, messages: anthropic.Anthropic) -> None:
        name = f"anthropic/{BEAST}"
        said = messages.messages.create(model=name, max_tokens=4, messages=user("Hello there"))
        assert said.model == name
        assert said.content[0].type == "text"
        assert said.stop_reason == "max_tokens"
        assert (said.usage.input_tokens, said.usage.output_tokens) == (2, 4)
        assert said._request_id
        assert said._request_id.startswith("req_")

    def test_a_stream_gives_the_same_words(self, messages: anthropic.Anthropic) -> None:
        whole = messages.messages.create(model=BEAST, max_tokens=5, messages=user("Hello"))
        with messages.messages.stream(model=BEAST, max_tokens=5, messages=user("Hello")) as stream:
            text = "".join(stream.text_stream)
            final = stream.get_final_message()
        assert whole.content[0].type == "text"
        assert text == whole.content[0].text
        assert (final.stop_reason, final.usage.input_tokens, final.usage.output_tokens) == ("max_tokens", 1, 5)

    def test_a_tool_loop_ends(self, messages: anthropic.Anthropic) -> None:
        turns = user("Weather?")
        with messages.messages.stream(model=BEAST, max_tokens=50, messages=turns, tools=[WEATHER]) as stream:
            called = stream.get_final_message()
        assert called.stop_reason == "tool_use"
        [use] = [block for block in called.content if block.type == "tool_use"]
        assert use.name == "get_weather"
        assert set(use.input) == {"city"}
        result = {"type": "tool_result", "tool_use_id": use.id, "content": "21"}
        turns += [{"role": "assistant", "content": called.content}, {"role": "user", "content": [result]}]
        said = messages.messages.create(model=BEAST, max_tokens=4, messages=turns, tools=[WEATHER])
        assert [block.type for block in said.content] == ["text"]

    def test_rule_M_01_M_02_the_models_are_the_sdks_own(self, messages: anthropic.Anthropic) -> None:
        ids = [model.id for model in messages.models.list(limit=2)]
        assert BEAST in ids
        assert f"anthropic/{BEAST}" in ids
        assert len(set(ids)) == len(ids)
        assert messages.models.retrieve(BEAST).id == BEAST

    def test_rule_E_02_errors_are_the_sdks_own(self, messages: anthropic.Anthropic) -> None:
        with pytest.raises(anthropic.NotFoundError, match="model: unknown"):
            messages.messages.create(model="unknown", max_tokens=4, messages=user("Hello"))
        with pytest.raises(anthropic.BadRequestError):
            messages.messages.create(model=GIANT, max_tokens=4, messages=user("Hello"))
        with pytest.raises(anthropic.BadRequestError, match=r"prompt is too long: \d+ tokens > \d+ maximum"):
            messages.messages.create(model=BEAST, max_tokens=4, messages=user("word " * 9000))

    def test_a_failure_within_a_stream_is_raised(self, messages: anthropic.Anthropic) -> None:
        with (
            pytest.raises(anthropic.APIError),
            messages.messages.stream(model=BEAST, max_tokens=50, messages=user("please !die now")) as stream,
        ):
            stream.get_final_message()

    def test_rule_T_01_tokens_are_counted_without_a_load(self, sim: Cluster, messages: anthropic.Anthropic) -> None:
        sim.heal()
        sim.empty()
        estimate = messages.messages.count_tokens(model=BEAST, messages=user("one two three"))
        assert estimate.input_tokens > 0
        assert sim.replicas() == []
        messages.messages.create(model=BEAST, max_tokens=1, messages=user("Hello"))
        assert messages.messages.count_tokens(model=BEAST, messages=user("one two three")).input_tokens == 3

    def test_a_response_is_one_of_the_sdks_own(self, responses: openai.OpenAI) -> None:
        name = f"anthropic/{BEAST}"
        said = responses.responses.create(model=name, input="Hello there", max_output_tokens=4, store=False)
        assert (said.model, said.status, said.store) == (name, "incomplete", False)
        assert said.incomplete_details is not None
        assert said.incomplete_details.reason == "max_output_tokens"
        assert said.output_text.startswith(BEAST)
        assert said.usage is not None
        assert (said.usage.input_tokens, said.usage.output_tokens) == (2, 4)

    def test_a_tool_loop_ends_in_responses(self, responses: openai.OpenAI) -> None:
        turns = user("Weather?")
        with responses.responses.stream(model=BEAST, input=turns, tools=[FUNCTION]) as stream:
            called = stream.get_final_response()
        assert called.status == "completed"
        [call] = [item for item in called.output if item.type == "function_call"]
        assert set(json.loads(call.arguments)) == {"city"}
        turns += [item.model_dump() for item in called.output]
        turns += [{"type": "function_call_output", "call_id": call.call_id, "output": "21"}]
        said = responses.responses.create(model=BEAST, input=turns, tools=[FUNCTION])
        assert said.output_text

    def test_responses_errors_are_the_sdks_own(self, responses: openai.OpenAI) -> None:
        with pytest.raises(openai.NotFoundError):
            responses.responses.create(model="unknown", input="Hello")
        with pytest.raises(openai.BadRequestError) as caught:
            responses.responses.create(model=BEAST, input="Hello", previous_response_id="resp_1")
        assert caught.value.code == "previous_response_not_found"
        with pytest.raises(openai.BadRequestError) as caught:
            responses.responses.create(model=BEAST, input="word " * 9000)
        assert caught.value.code == "context_length_exceeded"
        with pytest.raises(openai.NotFoundError):
            responses.responses.retrieve("resp_1")

    def test_rule_L_06_embeddings_of_a_chat_model_are_a_mistake(self, responses: openai.OpenAI) -> None:
        with pytest.raises(openai.BadRequestError, match="another task"):
            responses.embeddings.create(model=BEAST, input="Hello")


@pytest.mark.engine
@engines.needs_vllm
class TestRealEngine:
    def test_each_model_answers_as_itself_in_both_dialects(self, vllm: Cluster) -> None:
        with anthropics(vllm) as messages, openais(vllm) as responses:
            for model in (BEAST, THIRD):
                said = messages.messages.create(
                    model=model, max_tokens=16, messages=user(QUESTION), extra_body={"temperature": 0}
                )
                assert said.content[0].type == "text"
                assert (said.content[0].text, said.stop_reason) == (ANSWERS[model], "end_turn")
                answer = responses.responses.create(model=model, input=QUESTION, temperature=0)
                assert (answer.output_text, answer.status) == (ANSWERS[model], "completed")
            counted = messages.messages.count_tokens(model=BEAST, messages=user(QUESTION))
            said = messages.messages.create(model=BEAST, max_tokens=16, messages=user(QUESTION))
            assert counted.input_tokens == said.usage.input_tokens + (said.usage.cache_read_input_tokens or 0)
            known = messages.models.retrieve(BEAST).capabilities
            assert known
            assert (known.structured_outputs.supported, known.image_input.supported) == (True, False)
            with pytest.raises(anthropic.BadRequestError, match=r"prompt is too long: \d+ tokens > \d+ maximum"):
                messages.messages.create(model=BEAST, max_tokens=8, messages=user("fish " * 4000))
            with pytest.raises(openai.BadRequestError, match="another task"):
                responses.embeddings.create(model=BEAST, input="Hello")

    def test_a_tool_is_called_and_its_result_is_used_in_both_dialects(self, vllm: Cluster) -> None:
        with anthropics(vllm) as messages, openais(vllm) as responses:
            turns = user("Weather in Paris?")
            with messages.messages.stream(
                model=THIRD, max_tokens=64, messages=turns, tools=[WEATHER], extra_body={"temperature": 0}
            ) as stream:
                called = stream.get_final_message()
            [use] = [block for block in called.content if block.type == "tool_use"]
            assert (called.stop_reason, use.name, use.input) == ("tool_use", "get_weather", {"city": "Paris"})
            result = {"type": "tool_result", "tool_use_id": use.id, "content": '{"temp": 21}'}
            turns += [{"role": "assistant", "content": called.content}, {"role": "user", "content": [result]}]
            said = messages.messages.create(
                model=THIRD, max_tokens=64, messages=turns, tools=[WEATHER], extra_body={"temperature": 0}
            )
            assert said.content[0].type == "text"
            assert said.content[0].text == "It is 21 degrees in Paris."

            items = user("Weather in Oslo?")
            with responses.responses.stream(model=THIRD, input=items, tools=[FUNCTION], temperature=0) as events:
                asked = events.get_final_response()
            [call] = [item for item in asked.output if item.type == "function_call"]
            assert json.loads(call.arguments) == {"city": "Oslo"}
            items += [item.model_dump() for item in asked.output]
            items += [{"type": "function_call_output", "call_id": call.call_id, "output": '{"temp": 21}'}]
            answer = responses.responses.create(model=THIRD, input=items, tools=[FUNCTION], temperature=0)
            assert answer.output_text == "It is 21 degrees in Oslo."

"""What holds for every sample that the model is taught with."""

import json
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.tinymodel.skills import CITIES, LINES, SKILLS, TOOLS, WORDS, Sample, draw

samples = st.builds(
    lambda seed, skill, line: (skill, line, draw(Random(seed), skill, line)),
    st.integers(0, 2**32),
    st.sampled_from(list(SKILLS)),
    st.sampled_from(list(LINES)),
)


def test_words_are_distinct_and_no_city_or_tool() -> None:
    assert len({*WORDS, *CITIES, *TOOLS}) == len(WORDS) + len(CITIES) + len(TOOLS)


@given(samples)
def test_user_or_tool_speaks_last_and_the_system_line_stands_first(drawn: tuple[str, str, Sample]) -> None:
    skill, line, sample = drawn
    roles = [message["role"] for message in sample.messages]
    assert roles[-1] == ("tool" if skill == "tool_result" else "user")
    assert "system" not in roles[1:]
    if skill not in {"persona", "think"}:
        assert (roles[0] == "system") == (line != "none")


@given(samples)
def test_answer_can_be_told_from_the_conversation(drawn: tuple[str, str, Sample]) -> None:
    skill, _, sample = drawn
    question = sample.messages[-1]["content"]
    match skill:
        case "copy":
            assert question.endswith(f" {sample.answer}")
        case "persona":
            assert sample.messages[0]["content"] == f"You are {sample.answer.removeprefix('I am ')}"
        case "recall":
            assert any(message["content"] == f"My name is {sample.answer}" for message in sample.messages)
        case "json":
            value = json.loads(sample.answer)
            assert question == f"json {value['name']} {value['age']}"
        case "think":
            assert sample.messages[0]["content"].endswith("think")
        case "tool":
            call = json.loads(sample.answer.removeprefix("<tool_call>\n").removesuffix("\n</tool_call>"))
            assert call["name"] in sample.tools
            assert list(call["arguments"]) == [TOOLS[call["name"]].argument]


def test_same_seed_same_samples() -> None:
    assert [draw(Random(7)) for _ in range(20)] == [draw(Random(7)) for _ in range(20)]


@pytest.mark.parametrize("skill", SKILLS)
def test_every_skill_is_taught(skill: str) -> None:
    assert SKILLS[skill].share >= 1

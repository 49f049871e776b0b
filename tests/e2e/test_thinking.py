"""Thinking, end to end: a model that thinks when it is asked to, in every dialect, on the real engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest

from tests.support import engines
from tests.support.daemons import GatewayProcess
from tests.support.host import fleet
from tests.support.until import until
from tools.tinymodel.fleet import CHECKPOINT, make_models

pytestmark = [pytest.mark.engine, engines.needs_vllm]

THINKER = "tiny-beast"
ASK: Any = [{"role": "user", "content": "What is 2+3?"}]
THOUGHT, ANSWER = "2 plus 3", "5"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """One neuron with the tiny model, and a parser for what it thinks; what it can is known once it is loaded."""
    models_dir = tmp_path_factory.mktemp("models")
    make_models(CHECKPOINT, models_dir)
    with fleet() as host:
        neuron = host.neuron("beast", engine="vllm", memory_mb=700, models_dir=models_dir)
        neuron.until_engine()
        profile = {"id": THINKER, "vram_mb": 600, "engine": {"reasoning_parser": "deepseek_r1"}}
        gateway = host.gateway([neuron], [profile])
        status, said = neuron.post("/models/load", {"model": THINKER, "profile": profile})
        assert status == 200, said
        [replica] = neuron.replicas()
        assert (replica["facts"]["reasoning"], replica["facts"]["thinking_toggle"]) == (True, "none")
        until(lambda: gateway.fleet()["neurons"][0]["replicas"], what="the replica in the gateway's picture")
        yield gateway


def test_rule_A_30_A_31_thoughts_are_blocks_of_their_own(gateway: GatewayProcess) -> None:
    with anthropic.Anthropic(base_url=gateway.url, api_key="none", max_retries=0, timeout=90) as sdk:
        with sdk.messages.stream(
            model=THINKER, max_tokens=64, messages=ASK, thinking={"type": "adaptive"}, extra_body={"temperature": 0}
        ) as stream:
            said = stream.get_final_message()
        assert [block.type for block in said.content] == ["thinking", "text"]
        assert said.content[0].type == "thinking"
        assert THOUGHT in said.content[0].thinking
        assert said.content[0].signature
        assert said.content[1].type == "text"
        assert said.content[1].text.strip() == ANSWER


def test_rule_R_06_thoughts_are_items_of_their_own(gateway: GatewayProcess) -> None:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0, timeout=90) as sdk:
        said = sdk.responses.create(
            model=THINKER, input=ASK, temperature=0, reasoning={"effort": "high"}, max_output_tokens=64
        )
    assert [item.type for item in said.output] == ["reasoning", "message"]
    assert THOUGHT in str(said.output[0])
    assert said.output_text.strip() == ANSWER


def test_rule_C_09_chat_has_both_names_for_a_thought(gateway: GatewayProcess) -> None:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0, timeout=90) as sdk:
        said = sdk.chat.completions.create(
            model=THINKER, messages=ASK, temperature=0, reasoning_effort="high", max_tokens=64
        )
    message = said.choices[0].message.model_dump()
    assert THOUGHT in message["reasoning"]
    assert message["reasoning_content"] == message["reasoning"]
    assert message["content"].strip() == ANSWER

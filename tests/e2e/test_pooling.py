"""Embeddings, ranks, scores, classes: small encoders with random weights on the real engine, through the whole."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.support import engines
from tests.support.architectures import make
from tests.support.daemons import GatewayProcess
from tests.support.host import fleet
from tools.tinymodel.fleet import CHECKPOINT, make_models

pytestmark = [pytest.mark.engine, engines.needs_vllm]

EMBEDDER, RANKER, CLASSIFIER, CHAT = "bert-embedding", "bert-reranker", "bert-classifier", "tiny-beast"
SIZE = 64  # of the embedder's vectors
TEXTS = ["the cat sat", "on the mat", "and purred"]
MODEL_MB = 700


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """All of them on one neuron."""
    models_dir = tmp_path_factory.mktemp("models")
    make(models_dir, [EMBEDDER, RANKER, CLASSIFIER])
    make_models(CHECKPOINT, models_dir)
    with fleet() as host:
        neuron = host.neuron("beast", engine="vllm", memory_mb=4 * MODEL_MB + 100, models_dir=models_dir)
        neuron.until_engine()
        models = [{"id": name, "vram_mb": MODEL_MB} for name in (EMBEDDER, RANKER, CLASSIFIER, CHAT)]
        yield host.gateway([neuron], models)


@pytest.fixture
def sdk(gateway: GatewayProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0, timeout=90) as client:
        yield client


def post(gateway: GatewayProcess, path: str, **body: Any) -> Any:
    answer = httpx.post(gateway.url + path, json=body, timeout=90)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_rule_L_02_embeddings_in_each_form(gateway: GatewayProcess, sdk: openai.OpenAI) -> None:
    """openai-py asks for base64 by itself, and decodes it: the same numbers as without."""
    said = sdk.embeddings.create(model=EMBEDDER, input=TEXTS)
    assert [len(one.embedding) for one in said.data] == [SIZE] * len(TEXTS)
    assert [one.index for one in said.data] == [0, 1, 2]
    assert said.usage.prompt_tokens > len(TEXTS)
    plain = post(gateway, "/v1/embeddings", model=EMBEDDER, input=TEXTS, encoding_format="float")
    coded = post(gateway, "/v1/embeddings", model=EMBEDDER, input=TEXTS, encoding_format="base64")
    for one, other, sent in zip(said.data, plain["data"], coded["data"], strict=True):
        assert one.embedding == pytest.approx(other["embedding"], abs=1e-3)
        raw = base64.b64decode(sent["embedding"])
        assert list(struct.unpack(f"<{SIZE}f", raw)) == pytest.approx(other["embedding"], abs=1e-3)


def test_rule_L_02_token_ids_and_other_names(gateway: GatewayProcess, sdk: openai.OpenAI) -> None:
    ids = post(gateway, "/tokenize", model=EMBEDDER, prompt=TEXTS[0])["tokens"]
    by_ids, by_text = (
        sdk.embeddings.create(model=EMBEDDER, input=[ids]),
        sdk.embeddings.create(model=f"anthropic/{EMBEDDER}", input=TEXTS[0]),
    )
    assert by_ids.data[0].embedding == pytest.approx(by_text.data[0].embedding, abs=1e-3)
    assert (by_ids.model, by_text.model) == (EMBEDDER, f"anthropic/{EMBEDDER}")


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
def test_rule_L_03_ranks_are_in_order(gateway: GatewayProcess, path: str) -> None:
    said = post(gateway, path, model=RANKER, query="cat", documents=TEXTS)
    scores = [result["relevance_score"] for result in said["results"]]
    assert scores == sorted(scores, reverse=True)
    assert sorted(result["index"] for result in said["results"]) == [0, 1, 2]
    for result in said["results"]:
        assert result["document"]["text"] == TEXTS[result["index"]]
    assert len(post(gateway, path, model=RANKER, query="cat", documents=TEXTS, top_n=1)["results"]) == 1


@pytest.mark.parametrize("path", ["/v1/score", "/score"])
def test_rule_L_03_scores_agree_with_ranks(gateway: GatewayProcess, path: str) -> None:
    ranked = post(gateway, "/v1/rerank", model=RANKER, query="cat", documents=TEXTS)["results"]
    scored = post(gateway, path, model=RANKER, text_1="cat", text_2=TEXTS)["data"]
    by_index = {result["index"]: result["relevance_score"] for result in ranked}
    assert [one["score"] for one in scored] == pytest.approx([by_index[0], by_index[1], by_index[2]], abs=1e-3)


def test_rule_L_03_classes_and_raw_pooling(gateway: GatewayProcess) -> None:
    (one,) = post(gateway, "/classify", model=CLASSIFIER, input=TEXTS[0])["data"]
    assert one["num_classes"] == 3
    assert sum(one["probs"]) == pytest.approx(1.0, abs=1e-3)
    (pooled,) = post(gateway, "/pooling", model=EMBEDDER, input=TEXTS[0], task="embed")["data"]
    assert len(pooled["data"]) == SIZE


def test_rule_L_06_another_task_is_a_mistake_of_the_request(gateway: GatewayProcess, sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        sdk.embeddings.create(model=CHAT, input="x")
    with pytest.raises(openai.BadRequestError):
        sdk.chat.completions.create(model=EMBEDDER, messages=[{"role": "user", "content": "x"}])
    answer = httpx.post(f"{gateway.url}/v1/messages", timeout=90, json={
        "model": RANKER, "max_tokens": 5, "messages": [{"role": "user", "content": "x"}],
    })  # fmt: skip
    assert (answer.status_code, answer.json()["type"]) == (400, "error")

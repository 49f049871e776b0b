"""Names for models: what each means, how it is echoed, and how it is listed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from anthropic.types import ModelInfo

from cortex_core.config import Catalogue
from cortex_core.fleet import Limit, Profile
from cortex_core.gateway_api import Model
from cortex_gateway.policy import listing
from cortex_gateway.policy.aliases import Names
from tests.support.gateway import Running, gateway
from tests.support.readers import messages, responses
from tests.support.scripted import ANSWER, HELLO, ScriptedNeuron, in_turn, says, streams

MODELS = ("tiny", "big", "Qwen/Qwen3-8B", "claude-local")
NAMES = Names(
    aliases={"helexa/small": "tiny", "claude-*": "big", "claude-*haiku*": "tiny", "gone": "absent", "gone-*": "absent"},
    default="big",
)


@pytest.mark.parametrize(
    ("asked", "model"),
    [
        ("tiny", "tiny"),
        ("helexa/small", "tiny"),
        ("claude-haiku-4-5-20251001", "tiny"),  # the longer pattern
        ("claude-opus-4-8", "big"),
        ("claude-opus-4-8[1m]", "big"),
        ("tiny[1m]", "tiny"),
        ("claude-local", "claude-local"),
        ("anthropic/Qwen/Qwen3-8B", "Qwen/Qwen3-8B"),
        ("anthropic/tiny[1m]", "tiny"),
        ("gone", None),
        ("gone-for-ever", None),
        ("gpt-5", None),
        ("Tiny", None),
        ("[1m]", None),
        ("", None),
    ],
)
def test_what_a_name_means(asked: str, model: str | None) -> None:
    assert NAMES.model(asked, MODELS) == model


def test_only_an_unknown_claude_gets_the_default() -> None:
    names = Names(default="tiny")
    assert [names.model(name, MODELS) for name in ("claude-opus-4-8", "gpt-5", "claude")] == ["tiny", None, None]
    assert Names(default="absent").model("claude-opus-4-8", MODELS) is None


PROFILES = (Profile(id="tiny", vram_mb=1000, defaults={"temperature": 0.5, "max_tokens": 7}, limit=Limit(output=50)),
            Profile(id="Qwen/Qwen3-8B", vram_mb=4000))  # fmt: skip
CATALOGUE = Catalogue(models=PROFILES, aliases={"claude-*haiku*": "tiny", "helexa/small": "tiny"}, default="tiny")
USER = [{"role": "user", "content": "Who are you?"}]
JSON = {"content-type": "application/json"}
ANTHROPIC = {"anthropic-version": "2023-06-01"}


@pytest.fixture
async def served(beast: ScriptedNeuron) -> AsyncIterator[Running]:
    beast.ready("tiny", profile=PROFILES[0], context=8192)
    async with gateway([beast], CATALOGUE, hold_s=5.0, hold_not_streaming_s=5.0) as running:
        await running.up("beast")
        yield running


ASKED = "claude-haiku-4-5-20251001"


async def test_rule_C_09_the_name_that_was_asked_for_is_echoed(beast: ScriptedNeuron, served: Running) -> None:
    named = ANSWER | {"model": "tiny", "id": "chatcmpl-1", "object": "chat.completion"}
    event = HELLO[1].replace(b'"object"', b'"model":"tiny","object"')
    beast.answers = in_turn(says(named), streams(HELLO[0], event, *HELLO[3:]))
    got = await served.chat(ASKED)
    assert (got.json["model"], got.json["choices"][0]["message"]["content"]) == (ASKED, "I am tiny")
    got = await served.chat(ASKED, stream=True)
    assert b'"model":"claude-haiku-4-5-20251001"' in got.body
    assert b'"tiny"' not in got.body
    assert [msgspec.json.decode(asked.body)["model"] for asked in beast.asked] == ["tiny", "tiny"]


async def test_translated_answers_echo_it_too(beast: ScriptedNeuron, served: Running) -> None:
    for path, body in (
        ("/v1/messages", {"max_tokens": 5, "messages": USER}),
        ("/v1/responses", {"input": "x"}),
    ):
        got = await served.ask("POST", path, {"model": ASKED, "stream": True, **body})
        said: Any = messages.read(got.body).start if path == "/v1/messages" else responses.read(got.body).final
        assert said["model"] == ASKED
    assert all(msgspec.json.decode(asked.body)["model"] == "tiny" for asked in beast.asked)


@pytest.mark.parametrize(
    ("path", "body", "sent"),
    [
        ("/v1/chat/completions", {"messages": USER}, {"temperature": 0.5, "max_tokens": 7}),
        ("/v1/chat/completions", {"messages": USER, "temperature": 1, "max_completion_tokens": 3},
         {"temperature": 1, "max_completion_tokens": 3}),
        ("/v1/completions", {"prompt": "x", "max_tokens": 2}, {"temperature": 0.5, "max_tokens": 2}),
        ("/v1/messages", {"messages": USER, "max_tokens": 9}, {"temperature": 0.5, "max_tokens": 9}),
        ("/v1/responses", {"input": "x", "temperature": 0.1}, {"temperature": 0.1, "max_tokens": 7}),
    ],
)  # fmt: skip
async def test_defaults_hold_where_the_client_says_nothing(
    beast: ScriptedNeuron, served: Running, path: str, body: dict[str, Any], sent: dict[str, Any]
) -> None:
    beast.answers = says(ANSWER)
    assert (await served.ask("POST", path, {"model": "tiny", **body})).status == 200
    got = msgspec.json.decode(beast.asked[0].body)
    keys = ("temperature", "max_tokens", "max_completion_tokens")
    assert {key: got[key] for key in keys if key in got} == sent


async def test_rule_M_01_M_03_models_in_openais_shape(served: Running) -> None:
    listed = (await served.ask("GET", "/v1/models")).json
    assert listed["object"] == "list"
    assert [entry["id"] for entry in listed["data"]] == ["tiny", "Qwen/Qwen3-8B", "helexa/small"]
    tiny, qwen, alias = listed["data"]
    assert (tiny["object"], tiny["created"], tiny["owned_by"]) == ("model", 0, "cortex")
    assert (alias["root"], alias["parent"], "root" in tiny) == ("tiny", "tiny", False)
    assert (tiny["status"], qwen["status"]) == ({"value": "loaded"}, {"value": "unloaded"})
    assert (tiny["max_model_len"], tiny["meta"]) == (8192, {"n_ctx_train": 8192})


async def test_rule_M_01_M_03_models_in_anthropics_shape(served: Running) -> None:
    listed = (await served.ask("GET", "/v1/models?limit=1000", headers=ANTHROPIC)).json
    ids = [entry["id"] for entry in listed["data"]]
    assert ids == ["tiny", "Qwen/Qwen3-8B", "helexa/small", "anthropic/tiny", "anthropic/Qwen/Qwen3-8B",
                   "anthropic/helexa/small"]  # fmt: skip
    assert (listed["has_more"], listed["first_id"], listed["last_id"]) == (False, ids[0], ids[-1])
    assert listed["data"][0] == {
        "type": "model", "id": "tiny", "display_name": "tiny", "created_at": "1970-01-01T00:00:00Z",
        "max_input_tokens": 8142, "max_tokens": 50, "lifecycle": "active", "line": None, "capabilities": None,
    }  # fmt: skip
    for name in ids:
        assert (await served.ask("GET", f"/v1/models/{name}", headers=ANTHROPIC)).json["id"] == name


def test_rule_M_01_what_a_model_can_is_said_in_the_words_of_anthropics_sdk() -> None:
    def said(*words: str) -> ModelInfo:
        return ModelInfo.model_validate(listing.anthropic(Model(id="m", loaded=False, capabilities=words)))

    assert said().capabilities is None
    thinker, seer, encoder = (said(*words).capabilities for words in (("tools", "reasoning"), ("vision",), ("embed",)))
    assert thinker
    assert seer
    assert encoder
    assert (thinker.thinking.supported, thinker.thinking.types.enabled.supported, thinker.effort.high.supported) == (
        True, True, True,
    )  # fmt: skip
    assert (seer.thinking.supported, seer.effort.supported, seer.thinking.types.disabled.supported) == (
        False, False, True,
    )  # fmt: skip
    assert (thinker.image_input.supported, seer.image_input.supported) == (False, True)
    assert (seer.structured_outputs.supported, encoder.structured_outputs.supported) == (True, False)
    assert not seer.server_tools.supported


async def test_rule_M_01_pages_of_the_list(served: Running) -> None:
    async def page(query: str) -> tuple[list[str], bool]:
        got = (await served.ask("GET", f"/v1/models?{query}", headers=ANTHROPIC)).json
        return [entry["id"] for entry in got["data"]], got["has_more"]

    every, more = await page("")
    assert not more
    assert await page("limit=2") == (every[:2], True)
    assert await page(f"limit=2&after_id={every[1]}") == (every[2:4], True)
    assert await page(f"limit=20&after_id={every[1]}") == (every[2:], False)
    assert await page(f"limit=2&before_id={every[3]}") == (every[1:3], True)
    assert await page(f"limit=3&before_id={every[3]}") == (every[:3], False)
    assert await page(f"after_id={every[-1]}") == ([], False)
    for limit in ("0", "1001", "x", "-1"):
        got = await served.ask("GET", f"/v1/models?limit={limit}", headers=ANTHROPIC)
        assert (got.status, got.error["type"]) == (400, "invalid_request_error")


async def test_rule_M_02_H_11_one_model_by_any_of_its_names(served: Running) -> None:
    for name in ("tiny", "Qwen/Qwen3-8B", "Qwen%2FQwen3-8B", ASKED, "anthropic/tiny", "claude-opus-4-8"):
        got = await served.ask("GET", f"/v1/models/{name}")
        assert (got.status, got.json["id"]) == (200, name.replace("%2F", "/"))
    got = await served.ask("GET", "/v1/models/nope")
    assert (got.status, got.error["code"]) == (404, "model_not_found")
    got = await served.ask("GET", "/v1/models/nope", headers=ANTHROPIC)
    assert (got.status, got.error) == (404, {"type": "not_found_error", "message": "model: nope"})


@pytest.mark.parametrize("headers", [{}, ANTHROPIC])
async def test_rule_M_04_no_model_is_deleted(served: Running, headers: dict[str, str]) -> None:
    got = await served.ask("DELETE", "/v1/models/tiny", headers=headers)
    assert (got.status, got.error["type"]) == (405, "invalid_request_error")
    assert got.headers["allow"]


async def test_what_llama_cpps_clients_ask_is_known_without_a_load(beast: ScriptedNeuron, served: Running) -> None:
    got = await served.ask("GET", "/props?model=helexa/small")
    assert got.status == 200
    assert got.json["default_generation_settings"]["n_ctx"] == 8192
    assert (got.json["model_alias"], got.json["model_path"], got.json["is_sleeping"]) == ("helexa/small", "tiny", False)
    assert (await served.ask("GET", "/props?model=Qwen/Qwen3-8B")).json["is_sleeping"]
    router = (await served.ask("GET", "/props")).json
    assert (router["role"], router["models_autoload"]) == ("router", True)
    assert (await served.ask("GET", "/props?model=nope")).status == 404
    assert beast.loads == []


ADAPTED = Profile(id="tiny", vram_mb=1000, adapters={"pirate": "adapters/pirate"}, defaults={"temperature": 0.5})
TUNED = Catalogue(models=(ADAPTED,), aliases={"claude-*haiku*": "pirate", "talk": "pirate"})


@pytest.fixture
async def tuned(beast: ScriptedNeuron) -> AsyncIterator[Running]:
    """A gateway whose one model has a LoRA adapter."""
    beast.ready("tiny", profile=ADAPTED)
    async with gateway([beast], TUNED, hold_s=5.0, hold_not_streaming_s=5.0) as running:
        await running.up("beast")
        yield running


@pytest.mark.parametrize("asked", ["pirate", "talk", "claude-haiku-4-5", "anthropic/pirate"])
async def test_an_adapter_is_served_by_its_models_replicas(beast: ScriptedNeuron, tuned: Running, asked: str) -> None:
    """The engine knows it by a name of its own, the fleet by its model's; the client hears what it asked for."""
    beast.answers = says(ANSWER | {"model": "pirate"})
    got = await tuned.chat(asked)
    assert (got.status, got.json["model"]) == (200, asked)
    sent = msgspec.json.decode(beast.asked[0].body)
    assert (sent["model"], sent["temperature"]) == ("pirate", 0.5)
    assert beast.loads == []
    got = await tuned.ask("POST", "/v1/messages", {"model": asked, "max_tokens": 5, "messages": USER})
    assert (got.status, got.json["model"]) == (200, asked)
    assert msgspec.json.decode(beast.asked[1].body)["model"] == "pirate"


async def test_adapters_are_listed_with_their_model(tuned: Running) -> None:
    got = await tuned.ask("GET", "/v1/models")
    assert [(model["id"], model.get("parent")) for model in got.json["data"]] == [
        ("tiny", None), ("pirate", "tiny"), ("talk", "pirate"),
    ]  # fmt: skip
    assert (await tuned.ask("GET", "/v1/models/pirate")).json["parent"] == "tiny"


@pytest.mark.parametrize("name", ["pirate", "talk", "claude-haiku-4-5", "tiny"])
async def test_operators_may_use_the_same_names(beast: ScriptedNeuron, tuned: Running, name: str) -> None:
    explained = await tuned.ask("POST", "/cortex/v1/explain", {"model": name}, JSON)
    assert (explained.status, explained.json["model"], explained.json["outcome"]) == (200, "tiny", "served")
    loaded = await tuned.ask("POST", "/cortex/v1/load", {"model": name}, JSON)
    assert (loaded.status, loaded.json["neurons"]) == (200, ["beast"])

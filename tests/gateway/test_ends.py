"""A request that is cut short counts what the engine did for it, not what was seen of it."""

from __future__ import annotations

import asyncio

import pytest

from cortex_core.errors import Dialect
from cortex_core.neuron_api import FinishedEvent
from cortex_gateway.policy.usage import Usage
from cortex_gateway.relay import ends
from cortex_gateway.relay.ends import Ends
from cortex_gateway.relay.record import CLIENT_LEFT, Record
from tests.support.gateway import Running
from tests.support.scripted import HELLO, ScriptedNeuron, streams
from tests.support.until import until_async

SEEN, EXACT = Usage(completion_tokens=2, estimated=True), Usage(7, 5, 3)


def record(name: str, *, usage: Usage | None = SEEN, code: str = CLIENT_LEFT, at_work: bool = True) -> Record:
    return Record(
        request_id=name,
        model="m",
        dialect=Dialect.OPENAI_CHAT,
        stream=True,
        arrived=1.0,
        usage=usage,
        code=code,
        at_work=at_work,
    )


def finished(name: str) -> FinishedEvent:
    return FinishedEvent(
        seq=1,
        gateway="g",
        request_id=name,
        model="m",
        prompt_tokens=7,
        cached_tokens=5,
        completion_tokens=3,
        outcome="abort",
        seconds=1.0,
    )


@pytest.mark.parametrize(
    "whole",
    [
        record("a", code=""),
        record("a", usage=EXACT),
        record("a", usage=None, code="model_not_found", at_work=False),
    ],
    ids=["answered", "usage came", "never sent"],
)
async def test_what_needs_no_waiting_is_passed_on_at_once(whole: Record) -> None:
    told: list[Record] = []
    with Ends(told.append) as under_test:
        usage = whole.usage
        under_test.ended(whole)
        assert [one.usage for one in told] == [usage]


@pytest.mark.parametrize("first", ["record", "event"])
async def test_the_neurons_count_replaces_ours_whichever_comes_first(first: str) -> None:
    told: list[Record] = []
    with Ends(told.append) as under_test:
        if first == "event":
            under_test.finished(finished("a"))
        under_test.ended(record("a"))
        under_test.ended(record("b"))
        if first == "record":
            assert told == []
            under_test.finished(finished("a"))
        assert [(one.request_id, one.usage) for one in told] == [("a", EXACT)]
    assert [(one.request_id, one.usage) for one in told] == [("a", EXACT), ("b", SEEN)]


async def test_without_word_from_the_neuron_our_own_count_goes_on_as_an_estimate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ends, "WAIT_S", 0.05)
    told: list[Record] = []
    with Ends(told.append) as under_test:
        under_test.ended(record("a"))
        under_test.ended(record("b"))
        await until_async(lambda: len(told) == 2)
        under_test.ended(record("c"))  # the clock runs anew
        await until_async(lambda: len(told) == 3)
    assert {one.usage for one in told} == {SEEN}


async def test_what_is_held_and_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ends, "HELD_MOST", 2)
    monkeypatch.setattr(ends, "EARLY_MOST", 2)
    told: list[Record] = []
    with Ends(told.append) as under_test:
        for name in "abc":
            under_test.ended(record(name))
        assert [one.request_id for one in told] == ["a"]
        for name in "xyz":
            under_test.finished(finished(name))
        under_test.ended(record("y"))
        assert [(one.request_id, one.usage) for one in told][1:] == [("y", EXACT)]


async def test_a_client_that_leaves_a_stream_is_charged_what_the_engine_made(
    beast: ScriptedNeuron, served: Running
) -> None:
    beast.answers = streams(*HELLO, pause=asyncio.Event().wait)
    beast.used = (7, 5, 30)
    asking = asyncio.get_running_loop().create_task(served.chat(stream=True))
    await until_async(lambda: beast.running)
    asking.cancel()

    async def counted() -> bool:
        return await served.metric("cortex_client_disconnects_total", model="tiny") == 1

    await until_async(counted)
    assert await served.metric("cortex_prompt_tokens_total", model="tiny") == 7
    assert await served.metric("cortex_cached_prompt_tokens_total", model="tiny") == 5
    assert await served.metric("cortex_completion_tokens_total", model="tiny") == 30

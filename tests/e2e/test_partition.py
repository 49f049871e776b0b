"""goal_R29 in namespaces of the kernel: two neurons and two gateways, under load while one neuron dies and the other is
cut off. Every request is answered or told the truth, and nothing is left of it all once they are back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.support.chat import Answer, Chat, chatting
from tests.support.daemons import GatewayProcess, NeuronProcess
from tests.support.host import Host, fleet
from tests.support.networks import Site, network, why_not
from tests.support.scale import CHAOS
from tests.support.until import eventually

MODELS = ("alder", "birch")
REPLICA_MB, TOKENS, HOLD_S = 600, 60, 12.0
USERS = 4  # of each gateway
SILENT_S, CUT_S = 20.0, 10.0  # until silence is noticed, on a busy machine; goal: streams end within 10 s

pytestmark = [
    pytest.mark.skipif(not CHAOS, reason="makes hosts of its own and takes half a minute: nox -s chaos"),
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
]


@dataclass
class Stage:
    host: Host
    places: dict[str, Site]
    neurons: dict[str, NeuronProcess] = field(default_factory=dict)
    gateways: list[GatewayProcess] = field(default_factory=list)

    def up(self, gateway: GatewayProcess, neuron: str) -> bool:
        return next(bool(n["up"]) for n in gateway.fleet()["neurons"] if n["name"] == neuron)

    def apart(self) -> list[str]:
        """What a gateway believes that is not so."""
        wrong = []
        for name, neuron in self.neurons.items():
            truth = {(r["id"], r["state"]) for r in neuron.replicas()}
            for gateway in self.gateways:
                [seen] = [n for n in gateway.fleet()["neurons"] if n["name"] == name]
                believed = {(r["id"], r["state"]) for r in seen["replicas"]}
                if not seen["up"] or believed != truth:
                    wrong.append(
                        f"{gateway.url} has {sorted(believed)} on {name}, up: {seen['up']}; not {sorted(truth)}"
                    )
        return wrong

    def held(self) -> int:
        """Requests that a neuron believes to be under way."""
        return sum(r["in_flight"] + r["queue"] for neuron in self.neurons.values() for r in neuron.replicas())


@pytest.fixture
def stage() -> Iterator[Stage]:
    sim = {"load_s": 0.3, "first_token_s": 0.1, "tokens_per_s": 60.0, "weights_mb": 100}
    names = ("beast", "benjy", "gw1", "gw2")
    with network(*names) as places, fleet() as host:
        stage = Stage(host, places)
        for name in names[:2]:
            stage.neurons[name] = host.neuron(
                name, memory_mb=2 * REPLICA_MB + 100, sim=sim, neuron_table={"insecure": True}, place=places[name]
            )
        profiles = [{"id": model, "vram_mb": REPLICA_MB} for model in MODELS]
        tables = {"gateway": {"hold_s": HOLD_S, "hold_not_streaming_s": HOLD_S}}
        for name in names[2:]:
            neurons = list(stage.neurons.values())
            stage.gateways.append(host.gateway(neurons, profiles, name=name, tables=tables, place=places[name]))
        yield stage


class Users:
    """They ask one gateway over and over, and keep what came of it."""

    def __init__(self, chat: Chat) -> None:
        self.answers: list[tuple[float, float, Answer]] = []  # with when each was asked, and over
        self.leaving = False
        self._chat = chat

    async def ask(self, number: int) -> None:
        body: dict[str, Any] = {"max_tokens": TOKENS, "stream_options": {"include_usage": True}}
        while not self.leaving:
            began = time.monotonic()
            answer = await self._chat.ask(MODELS[number % 2], f"{number}", **body)
            self.answers.append((began, time.monotonic(), answer))
            if answer.status != 200:
                await asyncio.sleep(0.5)  # nobody comes back sooner

    def served_since(self, moment: float) -> int:
        return sum(answer.clean for began, _, answer in self.answers if began > moment)


def check_true(answer: Answer, seconds: float) -> None:
    """The whole answer, an error before it, or one within it that nobody takes for an end."""
    assert seconds < HOLD_S + CUT_S + 5.0, answer
    if answer.clean:
        assert answer.usage is not None
        assert answer.usage["completion_tokens"] == TOKENS
        return
    assert answer.error is not None, answer
    assert answer.error["message"], answer
    assert not answer.done, answer
    if answer.status != 200:
        assert answer.status in (502, 503, 504), answer
        assert answer.status != 503 or 1 <= int(answer.headers["retry-after"]) <= 30, answer


async def test_one_neuron_killed_and_one_cut_off_under_load(stage: Stage) -> None:
    beast = stage.neurons["beast"]
    async with chatting(stage.gateways[0].url) as one, chatting(stage.gateways[1].url) as other:
        users = [Users(one), Users(other)]

        async def served(moment: float, what: str) -> None:
            await eventually(lambda: all(u.served_since(moment) >= USERS for u in users), timeout_s=60, what=what)

        async with asyncio.TaskGroup() as tasks:
            for group in users:
                for number in range(USERS):
                    tasks.create_task(group.ask(number))
            await served(0.0, "answers before anything went wrong")
            await asyncio.to_thread(beast.kill)
            await served(time.monotonic(), "answers from the other neuron alone")
            cut_at = time.monotonic()
            stage.places["benjy"].unplug()
            for gateway in stage.gateways:
                await eventually(lambda g=gateway: not stage.up(g, "benjy"), timeout_s=SILENT_S, what="silence noticed")  # type: ignore[misc]
            await asyncio.to_thread(beast.restart)
            await served(time.monotonic(), "answers from the one that is back")
            stage.places["benjy"].plug()
            for gateway in stage.gateways:
                await eventually(lambda g=gateway: stage.up(g, "benjy"), timeout_s=SILENT_S, what="benjy back")  # type: ignore[misc]
            await served(time.monotonic(), "answers with both again")
            for group in users:
                group.leaving = True
    answers = [entry for group in users for entry in group.answers]
    for began, ended, answer in answers:
        check_true(answer, ended - began)
    cut = [ended - cut_at for began, ended, answer in answers if began < cut_at < ended and answer.error]
    assert cut, "somebody's stream ran over the cable that was pulled"
    assert max(cut) < CUT_S, cut
    await eventually(lambda: not stage.apart(), what="pictures that are true")
    await eventually(lambda: stage.held() == 0, what="no ghosts")

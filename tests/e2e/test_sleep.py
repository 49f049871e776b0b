"""Models that can sleep take turns on one device without being loaded again, and nobody tells the gateway how."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.chat import chatting
from tests.support.daemons import GatewayProcess, NeuronProcess
from tests.support.host import fleet
from tests.support.until import until

MODELS = ("alder", "birch", "cedar")
REPLICA_MB = 500
SIM = {"load_s": 1.0, "unload_s": 0.05, "first_token_s": 0.01, "tokens_per_s": 500.0}


@pytest.fixture
def pair() -> Iterator[tuple[GatewayProcess, NeuronProcess]]:
    """A gateway before one neuron with room for one model that is awake, and for what the others keep."""
    profiles = [{"id": name, "vram_mb": REPLICA_MB, "engine": {"enable_sleep_mode": True}} for name in MODELS]
    with fleet() as host:
        neuron = host.neuron("beast", sim=SIM, memory_mb=REPLICA_MB + 10, engine_table={"turn_guard_s": 0.0})
        yield host.gateway([neuron], profiles), neuron


async def test_models_that_alternate_are_loaded_once_each(pair: tuple[GatewayProcess, NeuronProcess]) -> None:
    gateway, neuron = pair
    homes: dict[str, str] = {}
    async with chatting(gateway.url) as chat:
        for model in (*MODELS, *MODELS):
            answer = await chat.ask(model)
            assert answer.clean, answer
            [replica] = neuron.replicas(model)
            assert homes.setdefault(model, replica["id"]) == replica["id"]
            assert replica["state"] == "ready"
    states = {replica["model"]: replica["state"] for replica in neuron.replicas()}
    assert states == {"alder": "sleeping", "birch": "sleeping", "cedar": "ready"}

    def seen() -> dict[str, str]:
        [view] = gateway.fleet()["neurons"]
        return {replica["model"]: replica["state"] for replica in view["replicas"]}

    until(lambda: seen() == states, what="the gateway's picture")

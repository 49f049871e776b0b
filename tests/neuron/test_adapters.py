"""Adapters are models of their own to who asks, and a part of their replica to everybody else."""

from __future__ import annotations

from pathlib import Path

from cortex_core.http import Client
from tests.neuron.contract.conftest import REPLICA_MB, SIM_MODELS, running, sim_config
from tests.neuron.contract.subject import Subject

FIRST, *_ = SIM_MODELS


async def test_a_replica_answers_for_its_adapters(short_path: Path) -> None:
    async with running(sim_config(short_path)) as neuron:
        client = Client(f"http://{neuron.address}")
        subject = Subject(client, SIM_MODELS, REPLICA_MB)
        replica = await subject.load(FIRST, options={"adapters": {"pirate": "adapters/pirate"}})
        assert replica.adapters == ("pirate",)
        listed = (await subject.call("GET", "/v1/models")).json()["data"]
        assert [model["id"] for model in listed] == [FIRST, "pirate"]
        for name, status in {FIRST: 200, "pirate": 200, "parrot": 409}.items():
            answer = await subject.call("POST", "/v1/chat/completions", subject.chat(name))
            assert answer.status == status, answer.body
        await client.close()


async def test_a_folder_outside_the_model_folder_is_no_adapter(short_path: Path) -> None:
    async with running(sim_config(short_path)) as neuron:
        client = Client(f"http://{neuron.address}")
        subject = Subject(client, SIM_MODELS, REPLICA_MB)
        profile = subject.profile(FIRST, adapters={"pirate": "../pirate"})
        answer = await subject.command("/models/load", model=FIRST, profile=profile)
        assert (answer.status, answer.refusal.code) == (422, "bad_request")
        await client.close()

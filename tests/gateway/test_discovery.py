"""What lies in the neurons' model folders is served too, besides the catalogue or instead of one."""

from __future__ import annotations

import random
from functools import partial

import pytest
from msgspec import structs

from cortex_core.config import Catalogue
from cortex_core.config.cortex import CatalogueTable
from cortex_core.fleet import Checkpoint, Fleet, Profile, Replica, State
from cortex_core.neuron_api import Report
from cortex_gateway.dispatch.discovery import Discovery
from cortex_gateway.neurons import follow
from cortex_gateway.policy.transitions import Event, Reported, Reprofiled, apply, empty_fleet
from tests.support.faults import Fault, FaultyWire, Then
from tests.support.gateway import Running, gateway
from tests.support.scripted import ScriptedNeuron
from tests.support.until import until_async

BROKEN, ODD = Checkpoint(name="broken", problem="no config.json"), Checkpoint(name="../odd name")
HELD = Replica(id="r1", version=1, model="held", digest="d", state=State.READY)
REPORT = Report(name="", instance_id="i", seq=1, checkpoints=(Checkpoint(name="qwen"), BROKEN, ODD), replicas=(HELD,))


def heard(catalogue: Catalogue, *events: Event) -> tuple[Fleet, list[Reprofiled]]:
    """The fleet after two neurons told this, and each time that the catalogue was made anew."""
    fleet, discovery, anew = empty_fleet([("beast", ""), ("benjy", "")], catalogue.profiles), Discovery(catalogue), []
    for event in events:
        fleet = apply(fleet, event)
        if (found := discovery.after(fleet, event)) is not None:
            anew.append(found)
            fleet = apply(fleet, found)
    return fleet, anew


def test_without_a_catalogue_it_is_the_catalogue() -> None:
    fleet, anew = heard(Catalogue(), Reported("beast", REPORT), Reported("benjy", REPORT))
    assert fleet.profiles == {"qwen": Profile(id="qwen"), "held": Profile(id="held")}
    assert len(anew) == 1, "the second neuron has nothing that is new"


def test_what_is_catalogued_stays_as_it_is_and_its_names_are_taken() -> None:
    listed = Profile(id="mine", source="qwen", vram_mb=5000)
    folders = tuple(Checkpoint(name=name) for name in ("qwen", "mine", "small", "phi"))
    report = structs.replace(REPORT, checkpoints=folders, replicas=())
    fleet, _ = heard(Catalogue(models=(listed,), aliases={"small": "mine"}), Reported("beast", report))
    assert fleet.profiles == {"mine": listed, "phi": Profile(id="phi")}


def test_what_is_gone_from_every_folder_goes() -> None:
    later = structs.replace(REPORT, seq=2, checkpoints=(Checkpoint(name="phi"),), replicas=())
    fleet, anew = heard(Catalogue(), Reported("beast", REPORT), Reported("beast", later))
    assert fleet.profiles == {"phi": Profile(id="phi")}
    assert len(anew) == 2


async def ids(running: Running) -> list[str]:
    return [entry["id"] for entry in (await running.ask("GET", "/v1/models")).json["data"]]


@pytest.mark.parametrize(("discover", "served"), [(True, ["tiny", "qwen"]), (False, ["tiny"])])
async def test_the_configuration_says_whether(beast: ScriptedNeuron, discover: bool, served: list[str]) -> None:
    beast.checkpoints = (Checkpoint(name="qwen"), Checkpoint(name="tiny"))
    table = CatalogueTable(discover=discover)
    async with gateway([beast], [Profile(id="tiny", vram_mb=1000)], catalogue_table=table) as running:
        await running.up("beast")

        async def known() -> bool:
            return await ids(running) == served

        await until_async(known, what=f"{served} are served")


async def test_r30_lost_polls_and_events_change_no_list(beast: ScriptedNeuron, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half the connections to a neuron break, each at another byte; what it offers is listed all the while."""
    for pause in ("POLL_S", "RETRY_S", "RETRY_MAX_S"):
        monkeypatch.setattr(follow, pause, 0.01)
    beast.checkpoints, served = (Checkpoint(name="qwen"), Checkpoint(name="tiny")), ["tiny", "qwen"]
    dice = random.Random(30)
    models, table = [Profile(id="tiny", vram_mb=1000)], CatalogueTable(discover=True)
    async with FaultyWire(beast.endpoint.removeprefix("http://")) as wire:
        async with gateway([beast], models, catalogue_table=table, at=f"http://{wire.address}") as running:

            async def known() -> bool:
                return await ids(running) == served

            await until_async(known, what=f"{served} are served")
            for _ in range(100):
                seen = wire.accepted
                is_lost = dice.random() < 0.5
                wire.fault = Fault(dice.randrange(800), Then.RESET) if is_lost else Fault()
                wire.drop()
                await until_async(partial(lambda seen: wire.accepted > seen, seen), what="the gateway tries again")
                assert await ids(running) == served

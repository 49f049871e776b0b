"""Pictures of a fleet to render and to decide on."""

from __future__ import annotations

from cortex_core.fleet import Failure, Replica, Share, State
from cortex_core.gateway_api import DeviceView, FleetView, Location, Model, NeuronView, Waiting


def replica(model: str, state: State = State.READY, **fields: object) -> Replica:
    """A replica on `cuda:0` that holds 1000 MB."""
    values: dict[str, object] = {"id": f"r-{model}", "version": 1, "digest": "d", "devices": (Share("cuda:0", 1000),)}
    return Replica(model=model, state=state, **{**values, **fields})  # type: ignore[arg-type]


def fleet_view() -> FleetView:
    """A host with a busy model and one that loads, a simulated one, and one that is down."""
    device = DeviceView(
        id="cuda:0", name="RTX 5090", kind="cuda", memory_mb=32_000, held_mb=2000, others_mb=500, free_mb=29_500
    )
    beast = NeuronView(
        name="beast",
        endpoint="http://beast:13131",
        up=True,
        devices=(device,),
        replicas=(
            replica("busy", in_flight=3, max_in_flight=8, queue=2, pinned=True, context=4096),
            replica("coming", State.LOADING, phase="weights", progress=0.25, expected_s=12.0),
        ),
        failures=(
            Failure(model="broken", digest="d", scope="model", code="load_failed", message="bad", retry_in_s=30),
        ),
    )
    benjy = NeuronView(
        name="benjy",
        endpoint="http://benjy:13131",
        up=True,
        simulated=True,
        cordoned=True,
        devices=(DeviceView(id="cpu:0", name="", kind="cpu", memory_mb=4, held_mb=1, others_mb=0, free_mb=3),),
        replicas=(replica("played", simulated=True, idle_s=90.0),),
    )
    gone = NeuronView(name="gone", endpoint="http://gone:13131", up=False, problem="no route\x1b[2J to host")
    models = (
        Model(id="busy", created=1, loaded=True, feasible_on=("beast",), max_model_len=4096,
              locations=(Location(neuron="beast", state=State.READY, vram_mb=1000),)),
        Model(id="coming", created=1, loaded=False, feasible_on=("beast",),
              locations=(Location(neuron="beast", state=State.LOADING, vram_mb=1000),)),
        Model(id="played", created=1, loaded=True, feasible_on=("benjy",),
              locations=(Location(neuron="benjy", state=State.READY, vram_mb=1000, simulated=True),)),
        Model(id="waits", created=1, loaded=False, feasible_on=("beast", "benjy")),
        Model(id="giant", created=1, loaded=False),
    )  # fmt: skip
    return FleetView(
        version="1.2.3",
        gateway="g-1",
        uptime_s=3700,
        neurons=(beast, benjy, gone),
        models=models,
        waiting={"waits": Waiting(4, 7.5)},
    )

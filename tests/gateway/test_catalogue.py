"""The merged list: every profile, where it is, and where it could be."""

from __future__ import annotations

import msgspec
import pytest
from msgspec import UNSET, structs

from cortex_core.fleet import Checkpoint, Cost, Device, Limit, Profile, Replica, Share, State
from cortex_core.gateway_api import Model
from cortex_core.neuron_api import Report
from cortex_gateway.policy.catalogue import Merged
from cortex_gateway.policy.transitions import Lost, Reported, apply, empty_fleet

GPU = Device(id="cuda:0", name="RTX", kind="cuda", memory_mb=24_000)
QWEN = Checkpoint(name="qwen", weights_mb=16_000, need_mb=18_000, context=32_768)


def replica(state: State = State.READY, **fields: object) -> Replica:
    made = Replica(id="r1", version=1, model="qwen", digest="d", state=state, devices=(Share("cuda:0", 18_000),))
    return structs.replace(made, **fields)


def listed(profile: Profile, **report: object) -> Model:
    """The entry of `profile` when one neuron reports this."""
    fleet = empty_fleet([("beast", "http://beast:13131")], {profile.id: profile})
    told = Report(name="beast", instance_id="i", seq=1, devices=(GPU,), checkpoints=(QWEN,))
    fleet = apply(fleet, Reported("beast", structs.replace(told, **report)))
    (model,) = Merged().models(fleet)
    return model


def test_an_entry_has_openais_four_fields_and_ours() -> None:
    model = listed(
        Profile(id="qwen", capabilities=("chat",), cost=Cost(input=0.0), limit=Limit(output=1000)),
        replicas=(replica(context=16_384),),
    )
    assert msgspec.json.decode(msgspec.json.encode(model)) == {
        "id": "qwen",
        "object": "model",
        "created": 0,
        "owned_by": "cortex",
        "loaded": True,
        "status": {"value": "loaded"},
        "feasible_on": ["beast"],
        "locations": [
            {
                "neuron": "beast",
                "state": "ready",
                "vram_mb": 18_000,
                "phase": "",
                "progress": 0.0,
                "simulated": False,
            }
        ],
        "capabilities": ["chat"],
        "limit": {"context": 0, "input": 0, "output": 1000},
        "cost": {"input": 0.0},
        "max_model_len": 16_384,
        "max_input_tokens": 15_384,
        "max_output_tokens": 1000,
        "meta": {"n_ctx_train": 16_384},
    }


def test_what_is_unknown_is_absent() -> None:
    model = listed(Profile(id="qwen"), checkpoints=(), simulated=True)
    assert (model.limit, model.cost, model.max_model_len, model.max_output_tokens) == (UNSET,) * 4


@pytest.mark.parametrize(
    ("profile", "report", "feasible"),
    [
        (Profile(id="qwen"), {}, True),
        (Profile(id="other", source="qwen"), {}, True),
        (Profile(id="other"), {}, False),
        (Profile(id="other", vram_mb=1), {"simulated": True}, True),
        (Profile(id="qwen"), {"checkpoints": (structs.replace(QWEN, problem="no tokenizer"),)}, False),
        (Profile(id="qwen", vram_mb=25_000), {}, False),
        (Profile(id="qwen", vram_mb=25_000, min_devices=2), {}, False),
        (Profile(id="qwen", vram_mb=25_000, min_devices=2), {"devices": (GPU, structs.replace(GPU, id="c:1"))}, True),
        (Profile(id="qwen", min_device_vram_mb=30_000), {}, False),
        (Profile(id="qwen"), {"replicas": (replica(model="another"),)}, True),
    ],
)
def test_where_a_model_could_be(profile: Profile, report: dict[str, object], feasible: bool) -> None:
    assert bool(listed(profile, **report).feasible_on) is feasible


@pytest.mark.parametrize(
    ("state", "loaded"),
    [
        (State.LOADING, False),
        (State.READY, True),
        (State.DRAINING, True),
        (State.SLEEPING, True),
        (State.UNLOADING, False),
        (State.RECOVERING, False),
    ],
)
def test_loaded_means_that_it_can_serve(state: State, loaded: bool) -> None:
    model = listed(Profile(id="qwen"), replicas=(replica(state, phase="weights", progress=0.5),))
    assert model.loaded is loaded
    assert (model.locations[0].state, model.locations[0].phase, model.locations[0].progress) == (state, "weights", 0.5)


@pytest.mark.parametrize(
    ("limit", "context", "expected"),
    [(0, 0, 32_768), (8000, 0, 8000), (0, 4000, 4000), (8000, 4000, 4000), (2000, 4000, 2000)],
)
def test_the_tightest_context_counts(limit: int, context: int, expected: int) -> None:
    profile = Profile(id="qwen", limit=Limit(context=limit))
    assert listed(profile, replicas=(replica(context=context),) if context else ()).max_model_len == expected


def test_F15_a_neuron_that_is_down_takes_its_places_along_and_no_model() -> None:
    profile = Profile(id="qwen")
    fleet = empty_fleet([("beast", "http://beast:13131")], {"qwen": profile})
    report = Report(name="beast", instance_id="i", seq=1, devices=(GPU,), checkpoints=(QWEN,), replicas=(replica(),))
    fleet = apply(apply(fleet, Reported("beast", report)), Lost("beast", "gone"))
    (model,) = Merged().models(fleet)
    assert (model.loaded, model.feasible_on, model.locations) == (False, (), ())


def test_a_single_entry_is_that_of_the_list() -> None:
    merged, fleet = Merged(), empty_fleet([], {"a": Profile(id="a"), "b": Profile(id="b")})
    assert [merged.model(fleet, name) for name in ("a", "b")] == list(merged.models(fleet))
    assert merged.model(fleet, "c") is None


def test_what_changed_in_a_neuron_is_seen() -> None:
    merged, profile = Merged(), Profile(id="qwen")
    fleet = empty_fleet([("beast", "")], {"qwen": profile})
    report = Report(name="beast", instance_id="i", seq=1, devices=(GPU,))
    seen = []
    for seq, checkpoints in enumerate([(), (QWEN,), (structs.replace(QWEN, need_mb=90_000),)]):
        fleet = apply(fleet, Reported("beast", structs.replace(report, seq=seq, checkpoints=checkpoints)))
        seen.append(merged.models(fleet)[0].feasible_on)
    assert seen == [(), ("beast",), ()]

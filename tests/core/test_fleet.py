"""The vocabulary: what the values say of themselves, and what must hold of every fleet."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from cortex_core.fleet import (
    HOLDS_MEMORY,
    Checkpoint,
    Device,
    Fleet,
    ModelId,
    Neuron,
    NeuronName,
    Profile,
    Replica,
    Share,
    State,
    check_invariants,
)
from tests.support.values import values_of


def replica(name: str, state: State = State.READY, memory_mb: int = 100, **fields: Any) -> Replica:
    values: dict[str, Any] = {"model": name, "version": 1, "digest": "d", "devices": (Share("cuda:0", memory_mb),)}
    return Replica(id=name, state=state, **{**values, **fields})


def neuron(*replicas: Replica, memory_mb: int = 1000, used_by_others_mb: int = 0) -> Neuron:
    device = Device(id="cuda:0", memory_mb=memory_mb, used_by_others_mb=used_by_others_mb)
    return Neuron(name="beast", up=True, devices=(device,), replicas=replicas)


def fleet(*replicas: Replica, **fields: int) -> Fleet:
    return Fleet(neurons={"beast": neuron(*replicas, **fields)})


# -------------------------------------------------------------------------------------------------------- profile

OPTIONS = {"id", "source", "startup", "adapters", "engine"}


@pytest.mark.parametrize("field", [f.name for f in structs.fields(Profile) if f.name not in OPTIONS])
def test_the_digest_is_of_the_engine_options_alone(field: str) -> None:
    """Two gateways, one of which has reloaded its catalogue, must agree on what a replica is."""
    one = Profile(id="m", engine={"max_model_len": 4096})

    @settings(max_examples=5)
    @given(other=values_of(Profile))
    def unchanged(other: Profile) -> None:
        assert structs.replace(one, **{field: getattr(other, field)}).digest == one.digest

    unchanged()


def test_other_engine_options_or_another_checkpoint_are_another_digest() -> None:
    profiles = [
        Profile(id="m"),
        Profile(id="n"),
        Profile(id="m", source="elsewhere"),
        Profile(id="m", engine={"max_model_len": 4096}),
        Profile(id="m", engine={"max_model_len": 8192}),
        Profile(id="m", engine={"max_model_len": "4096"}),
        Profile(id="m", engine={"max_model_len": 4096, "enforce_eager": True}),
        Profile(id="m", startup="fast"),
        Profile(id="m", startup="max"),
        Profile(id="m", adapters={"pirate": "adapters/pirate"}),
    ]
    assert len({profile.digest for profile in profiles}) == len(profiles)


def test_a_model_and_another_name_for_its_folder_share_a_digest() -> None:
    assert Profile(id="alias", source="m").digest == Profile(id="m").digest


@given(options=st.dictionaries(st.text(max_size=4), st.integers(-9, 9) | st.text(max_size=3), max_size=5))
def test_the_order_of_the_options_does_not_matter(options: dict[str, Any]) -> None:
    turned = dict(reversed(options.items()))
    assert Profile(id="m", engine=options).digest == Profile(id="m", engine=turned).digest


@pytest.mark.parametrize(
    ("fields", "priority"),
    [
        ({}, 100),
        ({"pinned_on": ("beast",)}, 1000),
        ({"residency_priority": 5}, 5),
        ({"residency_priority": 0, "pinned_on": ("beast",)}, 0),
    ],
)
def test_residency_priority(fields: dict[str, Any], priority: int) -> None:
    assert Profile(id="m", **fields).priority == priority


GOOD_IDS = ["a", "Qwen/Qwen3-8B", "tiny-beast", "a.b_c:d@e+f-g", "9", "a" * 100 + "/" + "b" * 100]
BAD_IDS = [
    "",
    "/a",
    "a/",
    "a/b/c",
    ".a",
    "-a",
    "a/.b",
    "../a",
    "a b",
    "a\n",
    "a%2f",
    "ä",
    "a" * 101,
    "a\x00",
    "a\\b",
    "a?b",
]


@pytest.mark.parametrize("model", GOOD_IDS)
def test_model_ids(model: str) -> None:
    assert msgspec.convert(model, ModelId) == model


@pytest.mark.parametrize("model", BAD_IDS)
def test_what_is_no_model_id(model: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(model, ModelId)


@pytest.mark.parametrize("name", ["", "-a", "a/b", "a b", "a\n", "a" * 65, ".a", "a:1"])
def test_what_is_no_name_of_a_neuron(name: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(name, NeuronName)


# --------------------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("state", State)
def test_a_replica_holds_memory_until_it_is_gone(state: State) -> None:
    assert replica("a", state).holds_memory is (state not in (State.ABSENT, State.FAILED))
    assert replica("a", state).memory_on("cuda:0") == (100 if state in HOLDS_MEMORY else 0)
    assert replica("a", state).memory_on("cuda:1") == 0


def test_free_memory_is_what_no_replica_and_no_stranger_has() -> None:
    host = neuron(replica("a"), replica("b", State.FAILED), replica("c", State.UNLOADING), used_by_others_mb=50)
    assert host.free_mb(host.devices[0]) == 1000 - 50 - 100 - 100


def test_free_memory_may_be_negative_when_a_stranger_took_what_was_promised() -> None:
    host = neuron(replica("a", memory_mb=600), used_by_others_mb=700)
    assert host.free_mb(host.devices[0]) == -300


@given(
    shares=st.lists(st.tuples(st.sampled_from(["cuda:0", "cuda:1"]), st.integers(0, 500)), max_size=6),
    states=st.lists(st.sampled_from(State), min_size=6, max_size=6),
)
def test_every_megabyte_is_free_held_or_a_strangers(shares: list[tuple[str, int]], states: list[State]) -> None:
    devices = (Device(id="cuda:0", memory_mb=1000, used_by_others_mb=3), Device(id="cuda:1", memory_mb=2000))
    replicas = tuple(
        replica(str(number), state, devices=(Share(*share),))
        for number, (share, state) in enumerate(zip(shares, states, strict=False))
    )
    host = Neuron(name="n", devices=devices, replicas=replicas)
    for device in devices:
        held = sum(r.memory_on(device.id) for r in replicas)
        assert host.free_mb(device) + held + device.used_by_others_mb == device.memory_mb


def test_tensor_parallel_replicas_hold_their_share_of_each_device() -> None:
    wide = replica("a", devices=(Share("cuda:0", 100), Share("cuda:1", 200)))
    assert (wide.memory_on("cuda:0"), wide.memory_on("cuda:1")) == (100, 200)


# ---------------------------------------------------------------------------------------------------------- views


def test_replicas_are_found_with_their_neurons_in_order() -> None:
    two = Fleet(
        neurons={
            "a": Neuron(name="a", replicas=(replica("m"), replica("n"))),
            "b": Neuron(name="b", replicas=(replica("m"),)),
        }
    )
    assert [(n.name, r.model) for n, r in two.replicas()] == [("a", "m"), ("a", "n"), ("b", "m")]
    assert [(n.name, r.model) for n, r in two.replicas("m")] == [("a", "m"), ("b", "m")]
    assert list(two.replicas("absent")) == []


def test_a_neuron_finds_its_replica_and_a_profiles_checkpoint() -> None:
    folders = {name: Checkpoint(name=name) for name in ("folder", "m")}
    host = Neuron(name="n", replicas=(replica("a"),), checkpoints=folders)
    assert host.replica("a") is host.replicas[0]
    assert host.replica("b") is None
    assert host.checkpoint(Profile(id="x", source="folder")) is folders["folder"]
    assert host.checkpoint(Profile(id="m")) is folders["m"]
    assert host.checkpoint(Profile(id="x")) is None


# ----------------------------------------------------------------------------------------------------- invariants


@pytest.mark.parametrize(
    "sound",
    [
        Fleet(),
        fleet(),
        fleet(replica("a", memory_mb=600), replica("b", memory_mb=400)),
        fleet(replica("a", memory_mb=1000), replica("b", State.FAILED, 1000)),
        fleet(replica("a", State.LOADING), replica("b", State.LOADING)),
        fleet(replica("a", State.UNLOADING), replica("a2", State.LOADING, model="a")),
    ],
)
def test_a_sound_fleet_passes(sound: Fleet) -> None:
    check_invariants(sound)


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (fleet(replica("a", memory_mb=600), replica("b", State.UNLOADING, 401)), "beast/cuda:0: 1001 MB held of 1000"),
        (fleet(replica("a"), replica("a")), "beast: a replica id twice"),
        (fleet(replica("a", State.LOADING), replica("b", State.LOADING, model="a")), "beast: a model loads twice"),
        (fleet(replica("a", in_flight=-1)), "beast/a: -1 in flight"),
    ],
)
def test_a_broken_fleet_is_named(broken: Fleet, says: str) -> None:
    with pytest.raises(AssertionError, match=says):
        check_invariants(broken)

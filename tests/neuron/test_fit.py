"""How much a model needs and where it goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex_core.fleet import MEBIBYTE, Device, Known, Limit, Profile, Share
from neuron.sizing.cache import BLOCK, Layers
from neuron.sizing.checkpoints import Facts
from neuron.sizing.fit import (
    CONTEXT_LEAST,
    KV_TOKENS_LEAST,
    KV_TOKENS_MOST,
    OVERHEAD_MB,
    CannotFit,
    Fit,
    Need,
    as_checkpoint,
    cache_of,
    fit,
    max_in_flight,
    need,
)

# Qwen3-8B: 36 layers, 8 KV heads of 128, bf16.
LARGE = Facts(
    name="large",
    path=Path("large"),
    architecture="Qwen3ForCausalLM",
    weights_bytes=15_623 * MEBIBYTE,
    context=40_960,
    layers=Layers(full=36, values=2 * 8 * 128),
    kv_heads=8,
)
SMALL = Facts(
    name="small",
    path=Path("small"),
    architecture="LlamaForCausalLM",
    weights_bytes=100 * MEBIBYTE,
    context=1024,
    layers=Layers(full=2, values=256),
    kv_heads=4,
)


def cuda(number: int, memory_mb: int = 24_000, name: str = "a card") -> Device:
    return Device(id=f"cuda:{number}", name=name, kind="cuda", memory_mb=memory_mb)


def free(devices: list[Device]) -> dict[str, int]:
    return {device.id: device.memory_mb for device in devices}


def test_the_need_is_weights_overhead_and_a_cache_for_one_long_request() -> None:
    found = need(LARGE, Profile(id="large"), kind="cuda")
    assert found.weights_mb == 15_623
    assert found.overhead_mb == OVERHEAD_MB["cuda"]
    assert found.cache.bytes_per_token == 147_456
    assert found.kv_mb == (KV_TOKENS_MOST + BLOCK) * 147_456 / MEBIBYTE
    assert found.memory_mb == found.weights_mb + found.overhead_mb + found.kv_mb


def test_a_short_context_gets_a_cache_for_several_requests() -> None:
    requests = KV_TOKENS_LEAST // SMALL.context
    assert need(SMALL, Profile(id="small")).kv_mb == requests * (SMALL.context + BLOCK) * 1024 / MEBIBYTE


def test_what_a_load_showed_takes_the_place_of_the_guess() -> None:
    known = Known(model="small", digest="d", device_kind="cpu", overhead_mb=77)
    assert need(SMALL, Profile(id="small"), known=known).overhead_mb == 77


@pytest.mark.parametrize(
    ("engine", "spread", "expected"),
    [
        ({}, 1, 147_456),
        ({"kv_cache_dtype": "fp8"}, 1, 73_728),
        ({"dtype": "float32"}, 1, 294_912),
        ({"kv_cache_dtype": "auto"}, 2, 73_728),
        ({}, 16, 147_456 / 8),  # eight heads are copied, not divided further
    ],
)
def test_bytes_per_token(engine: dict[str, Any], spread: int, expected: float) -> None:
    assert cache_of(LARGE, engine, "cuda", spread).bytes_per_token == expected


@pytest.mark.parametrize(
    ("engine", "kind", "expected"),
    [
        ({}, "cpu", 2048),
        ({}, "cuda", 2 * 8192),  # a GPU gets the next batch while it computes
        ({"max_num_batched_tokens": 512}, "cpu", 512),
        ({"max_num_batched_tokens": 512}, "cuda", 1024),
        ({"max_num_batched_tokens": "many"}, "cpu", 2048),  # the engine will refuse it
    ],
)
def test_tokens_in_flight(engine: dict[str, Any], kind: str, expected: int) -> None:
    assert cache_of(LARGE, engine, kind).in_flight == expected


def test_vram_mb_is_the_whole_and_the_cache_is_what_is_left() -> None:
    device = cuda(0)
    found = fit(LARGE, Profile(id="large", vram_mb=20_000), [device], free([device]))
    assert isinstance(found, Fit)
    assert found.shares == (Share("cuda:0", 20_000),)
    assert found.kv_cache_mb == 20_000 - 15_623 - OVERHEAD_MB["cuda"]
    filled = found.kv_cache_mb * MEBIBYTE / 147_456
    assert filled - 2 * BLOCK - 1 < found.context < filled


def test_a_card_too_small_for_the_wish_is_filled() -> None:
    device = cuda(0, 18_000)
    found = fit(LARGE, Profile(id="large"), [device], free([device]))
    assert isinstance(found, Fit)
    assert found.shares == (Share("cuda:0", 18_000),)
    assert CONTEXT_LEAST < found.context < LARGE.context


def test_the_device_with_most_room_is_taken() -> None:
    devices = [cuda(0), cuda(1), cuda(2)]
    found = fit(SMALL, Profile(id="small"), devices, {"cuda:0": 5000, "cuda:1": 9000, "cuda:2": 7000})
    assert isinstance(found, Fit)
    assert [share.id for share in found.shares] == ["cuda:1"]


def test_no_room_now_is_no_error_and_says_what_is_needed() -> None:
    found = fit(SMALL, Profile(id="small"), [cuda(0)], {"cuda:0": 100})
    assert isinstance(found, Need)
    assert found.memory_mb > 100


def test_no_room_ever_is_an_error_with_the_numbers() -> None:
    with pytest.raises(CannotFit, match=r"large needs 17029 MB at least .* the largest here has 8000 MB") as caught:
        fit(LARGE, Profile(id="large"), [cuda(0, 8000)], {"cuda:0": 8000})
    assert (caught.value.need_mb, caught.value.free_mb) == (17_029, 8000)


def test_tensor_parallel_takes_like_devices_and_divides() -> None:
    devices = [cuda(0, 12_000, "old"), cuda(1, 12_000, "new"), cuda(2, 12_000, "new")]
    found = fit(LARGE, Profile(id="large", min_devices=2), devices, free(devices))
    assert isinstance(found, Fit)
    assert [share.id for share in found.shares] == ["cuda:1", "cuda:2"]
    assert found.shares[0].memory_mb == found.shares[1].memory_mb < 12_000


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        (Profile(id="m", min_devices=2), "needs 2 like device"),
        (Profile(id="m", min_device_vram_mb=48_000), "of 48000 MB or more"),
        (Profile(id="m", vram_mb=200), "vram_mb = 200 is too little"),
    ],
)
def test_a_profile_that_asks_for_what_is_not_here(profile: Profile, words: str) -> None:
    with pytest.raises(CannotFit, match=words):
        fit(SMALL, profile, [cuda(0)], {"cuda:0": 24_000})


@pytest.mark.parametrize(
    ("placement", "words", "field"),
    [
        ((Share("cuda:9", 5000),), "no device cuda:9", "placement"),
        ((Share("cuda:0", 5000), Share("cuda:0", 5000)), "twice", "placement"),
        ((Share("cuda:0", 90_000),), "has 24000 and would give 90000", ""),
        ((Share("cuda:0", 10),), "would give 10", ""),
    ],
)
def test_a_placement_that_makes_no_sense(placement: tuple[Share, ...], words: str, field: str) -> None:
    with pytest.raises(CannotFit, match=words) as caught:
        fit(SMALL, Profile(id="small"), [cuda(0)], {"cuda:0": 24_000}, placement=placement)
    assert caught.value.field == field


def test_a_placement_is_kept_to() -> None:
    placement = (Share("cuda:1", 3000),)
    found = fit(SMALL, Profile(id="small"), [cuda(0), cuda(1)], {"cuda:0": 9000, "cuda:1": 4000}, placement=placement)
    assert isinstance(found, Fit)
    assert found.shares == placement
    assert isinstance(fit(SMALL, Profile(id="s"), [cuda(1)], {"cuda:1": 2999}, placement=placement), Need)


@pytest.mark.parametrize(
    ("profile", "kv_tokens", "context", "expected"),
    [
        (Profile(id="m", max_in_flight=3), 100_000, 1000, 3),
        (Profile(id="m"), 16_384, 1024, 16),
        (Profile(id="m"), 32_768, 32_768, 8),  # eight typical requests, not one longest
        (Profile(id="m"), 100, 1024, 1),
        (Profile(id="m"), 10_000_000, 1024, 256),
        (Profile(id="m"), 0, 512, 256),  # a model that keeps no cache
    ],
)
def test_requests_at_once(profile: Profile, kv_tokens: int, context: int, expected: int) -> None:
    assert max_in_flight(profile, kv_tokens, context) == expected


def test_a_checkpoint_that_cannot_be_served_has_no_figures() -> None:
    broken = Facts(name="broken", path=Path(), problem="pickles")
    assert as_checkpoint(broken, "cpu").problem == "pickles"
    assert as_checkpoint(broken, "cpu").need_mb == 0


@given(
    sizes=st.lists(st.integers(500, 100_000), min_size=1, max_size=6),
    used=st.lists(st.integers(0, 100_000), min_size=6, max_size=6),
    profile=st.builds(
        Profile,
        id=st.just("m"),
        vram_mb=st.integers(0, 50_000),
        min_devices=st.integers(1, 4),
        limit=st.builds(Limit, context=st.integers(0, 200_000)),
    ),
    facts=st.sampled_from([SMALL, LARGE]),
)
def test_a_fit_lies_within_what_is_free(sizes: list[int], used: list[int], profile: Profile, facts: Facts) -> None:
    devices = [cuda(index, size) for index, size in enumerate(sizes)]
    left = {device.id: device.memory_mb - taken for device, taken in zip(devices, used, strict=False)}
    try:
        found = fit(facts, profile, devices, left)
    except CannotFit:
        return
    if isinstance(found, Need):
        assert found.memory_mb >= found.least_mb >= found.workable_mb
        return
    assert len(found.shares) == profile.min_devices
    assert len({share.id for share in found.shares}) == profile.min_devices
    assert all(share.memory_mb <= left[share.id] for share in found.shares)
    wanted = need(facts, profile, kind="cuda", devices=len(found.shares))
    assert found.kv_cache_mb >= wanted.kv_least_mb
    assert wanted.cache.bytes_for(found.context) <= found.kv_cache_mb * MEBIBYTE

"""How many tokens a KV cache holds: rules as a table, bounds as properties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron.sizing.cache import BLOCK, UNBOUNDED, Cache, Layers

KIB = 1024


@pytest.mark.parametrize(
    ("layers", "padded"),
    [
        (Layers(), (0, 0, 0)),
        (Layers(full=36), (36, 0, 0)),
        (Layers(sliding=32), (0, 32, 0)),
        (Layers(states=24), (0, 0, 24)),
        (Layers(full=10, sliding=20), (10, 20, 0)),  # three groups of ten
        (Layers(full=10, sliding=52), (10, 60, 0)),  # the last group is filled up
        (Layers(full=13, sliding=12), (13, 13, 0)),  # nearly alike: two groups of the larger size
        (Layers(full=2, sliding=3), (2, 4, 0)),
        (Layers(full=12, states=36), (12, 0, 36)),  # Qwen3-Next
        (Layers(full=4, states=36), (4, 0, 36)),  # Granite 4
    ],
)
def test_layers_are_grouped(layers: Layers, padded: tuple[int, int, int]) -> None:
    assert layers.padded() == padded


@pytest.mark.parametrize(
    ("cache", "tokens", "expected"),
    [
        (Cache(KIB, 0), BLOCK, BLOCK * KIB),
        (Cache(KIB, 0), 1, BLOCK * KIB),  # whole blocks
        (Cache(0, KIB, window=256, in_flight=0), 10_000, (256 + BLOCK) * KIB),  # what left the window costs nothing
        (Cache(0, KIB, window=256, in_flight=512), 10_000, (768 + BLOCK) * KIB),  # but what is being computed does
        (Cache(KIB, KIB, window=256, in_flight=0), 1024, (1024 + 256 + BLOCK) * KIB),
        (Cache(KIB, 0, block=512, state_bytes=9 * KIB), 1, (512 + 9) * KIB),  # a state, whatever the length
        (Cache(0, 0, state_bytes=KIB), 1 << 20, KIB),
    ],
)
def test_what_one_request_takes(cache: Cache, tokens: int, expected: int) -> None:
    assert cache.bytes_for(tokens) == expected


def test_a_model_whose_every_layer_slides_has_no_longest_request() -> None:
    cache = Cache(0, KIB, window=256, in_flight=256)
    assert cache.holds(cache.size_for(1000)) == UNBOUNDED
    assert cache.holds(cache.size_for(256)) < 512


def test_a_model_that_keeps_states_only_has_no_longest_request() -> None:
    cache = Cache(0, 0, state_bytes=KIB)
    assert (cache.holds(KIB), cache.holds(2 * KIB)) == (0, UNBOUNDED)  # one block stays empty
    assert cache.tokens(11 * KIB, 4096) == 10 * 4096


def test_a_model_without_a_cache_holds_nothing_and_needs_nothing() -> None:
    cache = Cache(0, 0)
    assert (cache.holds(1 << 30), cache.tokens(1 << 30, 1024), cache.size_for(1024)) == (0, 0, 0)


caches = st.builds(
    Cache,
    full_bytes=st.sampled_from([0.0, 512.0, 147_456.0]),
    sliding_bytes=st.sampled_from([0.0, 512.0, 65_536.0]),
    window=st.integers(1, 8192),
    in_flight=st.integers(0, 16_384),
    block=st.sampled_from([BLOCK, 9 * BLOCK]),
    state_bytes=st.sampled_from([0.0, 4096.0, 9_000_000.0]),
)


@given(cache=caches, size=st.integers(0, 1 << 36))
def test_the_longest_request_fits_and_a_longer_one_does_not(cache: Cache, size: int) -> None:
    longest = cache.holds(size)
    assert longest >= 0
    if cache.size_for(1) and longest:
        assert cache.size_for(longest) <= size
    if cache.size_for(1) and longest < UNBOUNDED:
        assert cache.size_for(longest + 1) > size


@given(cache=caches, size=st.integers(0, 1 << 36), context=st.integers(1, 1 << 20))
def test_together_requests_hold_no_more_than_the_cache(cache: Cache, size: int, context: int) -> None:
    held = cache.tokens(size, context)
    assert held / context * cache.bytes_for(context) <= size

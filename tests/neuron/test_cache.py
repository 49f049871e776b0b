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
        (Layers(full=36), (36, 0)),
        (Layers(sliding=32), (0, 32)),
        (Layers(full=10, sliding=20), (10, 20)),  # three groups of ten
        (Layers(full=10, sliding=52), (10, 60)),  # the last group is filled up
        (Layers(full=13, sliding=12), (13, 13)),  # nearly alike: two groups of the larger size
        (Layers(full=2, sliding=3), (2, 4)),
    ],
)
def test_layers_are_grouped(layers: Layers, padded: tuple[int, int]) -> None:
    assert layers.padded() == padded


@pytest.mark.parametrize(
    ("cache", "tokens", "expected"),
    [
        (Cache(KIB, 0), BLOCK, BLOCK * KIB),
        (Cache(KIB, 0), 1, BLOCK * KIB),  # whole blocks
        (Cache(0, KIB, window=256, in_flight=0), 10_000, (256 + BLOCK) * KIB),  # what left the window costs nothing
        (Cache(0, KIB, window=256, in_flight=512), 10_000, (768 + BLOCK) * KIB),  # but what is being computed does
        (Cache(KIB, KIB, window=256, in_flight=0), 1024, (1024 + 256 + BLOCK) * KIB),
    ],
)
def test_what_one_request_takes(cache: Cache, tokens: int, expected: int) -> None:
    assert cache.bytes_for(tokens) == expected


def test_a_model_whose_every_layer_slides_has_no_longest_request() -> None:
    cache = Cache(0, KIB, window=256, in_flight=256)
    assert cache.holds(cache.size_for(1000)) == UNBOUNDED
    assert cache.holds(cache.size_for(256)) < 512


def test_a_model_without_a_cache_holds_nothing_and_needs_nothing() -> None:
    cache = Cache(0, 0)
    assert (cache.holds(1 << 30), cache.tokens(1 << 30, 1024), cache.size_for(1024)) == (0, 0, 0)


caches = st.builds(
    Cache,
    full_bytes=st.sampled_from([0.0, 512.0, 147_456.0]),
    sliding_bytes=st.sampled_from([0.0, 512.0, 65_536.0]),
    window=st.integers(1, 8192),
    in_flight=st.integers(0, 16_384),
)


@given(cache=caches, size=st.integers(0, 1 << 36))
def test_the_longest_request_fits_and_a_longer_one_does_not(cache: Cache, size: int) -> None:
    longest = cache.holds(size)
    assert longest >= 0
    if cache.bytes_per_token and longest:
        assert cache.size_for(longest) <= size
    if cache.bytes_per_token and longest < UNBOUNDED:
        assert cache.size_for(longest + 1) > size


@given(cache=caches, size=st.integers(0, 1 << 36), context=st.integers(1, 1 << 20))
def test_together_requests_hold_no_more_than_the_cache(cache: Cache, size: int, context: int) -> None:
    held = cache.tokens(size, context)
    assert held / context * cache.bytes_for(context) <= size

"""How many tokens a KV cache holds. Pure.

Held against the engine over many architectures (tests/neuron/engine/test_memory.py): never more than it gives, and not
much less. The arithmetic follows vLLM's `v1/core/kv_cache_utils.py`: layers of one kind form groups of equal size, the
last one padded, each request fills whole blocks in every group, and one block stays empty.
"""

from __future__ import annotations

from msgspec import Struct

BLOCK = 128  # tokens; of the CPU's engine, and more than those of most GPU kernels
BATCH = {"cpu": 2048, "cuda": 8192}  # tokens that the engine computes at once, where a profile says nothing
BATCHES = {"cpu": 1, "cuda": 2}  # at a time: a GPU gets the next one while it computes
UNBOUNDED = 1 << 30  # tokens: every layer slides, and its window has room


class Layers(Struct, frozen=True):
    """The layers of a model that cache something per token."""

    full: int = 0  # that keep every token
    sliding: int = 0  # that keep a window, or a chunk
    window: int = 0  # tokens; only with sliding layers
    values: int = 0  # numbers that a layer caches for each token

    def padded(self) -> tuple[int, int]:
        """Full and sliding layers as groups of one size hold them."""
        if not self.full or not self.sliding:
            return self.full, self.sliding
        least, most = sorted((self.full, self.sliding))
        size = most if most < least * 1.5 else least
        return _up(self.full, size), _up(self.sliding, size)


class Cache(Struct, frozen=True):
    """The cache of one model on one device."""

    full_bytes: float  # a token, over all layers that keep every one
    sliding_bytes: float  # a token, over all layers that keep some
    window: int = 0
    in_flight: int = 0  # tokens being computed, which sliding layers keep beside their window

    @property
    def bytes_per_token(self) -> float:
        """Of a short request: where no window has filled."""
        return self.full_bytes + self.sliding_bytes

    def bytes_for(self, tokens: int) -> float:
        """What one request of so many tokens takes of the blocks."""
        whole = _up(tokens, BLOCK)
        kept = _up(min(tokens, self.window + self.in_flight), BLOCK) + BLOCK  # a window may begin within a block
        return self.full_bytes * whole + self.sliding_bytes * kept

    def size_for(self, tokens: int) -> float:
        """Of the smallest cache for a request of so many tokens, in bytes."""
        return self.bytes_for(tokens) + self._empty_bytes

    def holds(self, size_bytes: float) -> int:
        """The longest single request for which a cache has room, in tokens; 0 where nothing is kept."""
        room_bytes = size_bytes - self._empty_bytes
        if room_bytes <= 0 or not self.bytes_per_token:
            return 0
        if not self.full_bytes and self.bytes_for(self.window + self.in_flight) <= room_bytes:
            return UNBOUNDED
        low, high = 0, int(room_bytes / (self.full_bytes or self.bytes_per_token))
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.bytes_for(middle) <= room_bytes else (low, middle - 1)
        return low

    def tokens(self, size_bytes: float, context: int) -> int:
        """What requests of the longest kind hold together, as the engine counts it."""
        if not self.bytes_per_token or not context:
            return 0
        return int(max(0.0, size_bytes - self._empty_bytes) / self.bytes_for(context) * context)

    @property
    def _empty_bytes(self) -> float:
        """The empty block, and what is left beside whole ones."""
        return self.bytes_per_token * BLOCK


def _up(count: int, unit: int) -> int:
    return -(-count // unit) * unit

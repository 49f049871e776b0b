"""How many tokens a KV cache holds. Pure.

Held against the engine over many architectures (tests/neuron/engine/test_memory.py): never more than it gives, and not
much less. The arithmetic follows vLLM's `v1/core/kv_cache_utils.py`: layers of one kind form groups of equal size, the
last one padded, each request fills whole blocks in every group, and one block stays empty. A state of constant size
takes a block as well, so beside it blocks of tokens grow until one holds it.
"""

from __future__ import annotations

from msgspec import Struct

BLOCK = 128  # tokens; of the CPU's engine, and more than those of most GPU kernels
BATCH = {"cpu": 2048, "cuda": 8192}  # tokens that the engine computes at once, where a profile says nothing
STATES = 3  # kept for each request where prefixes are cached: the present one, and those to go on from
BATCHES = {"cpu": 1, "cuda": 2}  # at a time: a GPU gets the next one while it computes
UNBOUNDED = 1 << 30  # tokens: every layer slides, and its window has room


class Layers(Struct, frozen=True):
    """The layers of a model that keep something of a request."""

    full: int = 0  # that keep every token
    sliding: int = 0  # that keep a window, or a chunk
    window: int = 0  # tokens; only with sliding layers
    values: int = 0  # numbers that one of those keeps for each token
    states: int = 0  # that keep a state of constant size
    convolution: int = 0  # numbers of it, in the model's own precision
    recurrent: int = 0  # numbers of it, in a precision of their own
    recurrent_dtype: str = ""  # that the checkpoint asks for; empty: the model's own

    def padded(self) -> tuple[int, int, int]:
        """Full and sliding layers and those with a state, as groups of one size hold them."""
        counts = (self.full, self.sliding, self.states)
        least, most = min(filter(None, counts), default=1), max(counts)
        size = most if 0 < most < least * 1.5 else least
        return _up(self.full, size), _up(self.sliding, size), _up(self.states, size)


class Cache(Struct, frozen=True):
    """The cache of one model on one device."""

    full_bytes: float  # a token, over all layers that keep every one
    sliding_bytes: float  # a token, over all layers that keep some
    window: int = 0
    in_flight: int = 0  # tokens being computed, which sliding layers keep beside their window
    block: int = BLOCK  # tokens
    state_bytes: float = 0  # a request, whatever its length

    @property
    def bytes_per_token(self) -> float:
        """Of a short request, where no window has filled; without its state."""
        return self.full_bytes + self.sliding_bytes

    def bytes_for(self, tokens: int) -> float:
        """What one request of so many tokens takes of the blocks."""
        whole = _up(tokens, self.block)
        kept = _up(min(tokens, self.window + self.in_flight), self.block) + self.block  # a window may begin within one
        return self.full_bytes * whole + self.sliding_bytes * kept + self.state_bytes

    def size_for(self, tokens: int) -> float:
        """Of the smallest cache for a request of so many tokens, in bytes."""
        return self.bytes_for(tokens) + self._empty_bytes

    def holds(self, size_bytes: float) -> int:
        """The longest single request for which a cache has room, in tokens; 0 where nothing is kept."""
        room_bytes = size_bytes - self._empty_bytes
        if room_bytes <= 0 or not self.bytes_for(1):
            return 0
        if not self.full_bytes and self.bytes_for(self.window + self.in_flight) <= room_bytes:
            return UNBOUNDED
        low, high = 0, int(room_bytes / (self.full_bytes or self.bytes_per_token or room_bytes + 1))
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.bytes_for(middle) <= room_bytes else (low, middle - 1)
        return low

    def tokens(self, size_bytes: float, context: int) -> int:
        """What requests of the longest kind hold together, as the engine counts it."""
        if not self.bytes_for(1) or not context:
            return 0
        return int(max(0.0, size_bytes - self._empty_bytes) / self.bytes_for(context) * context)

    @property
    def _empty_bytes(self) -> float:
        """The empty block, and what is left beside whole ones."""
        return self.bytes_per_token * self.block or self.state_bytes


def _up(count: int, unit: int) -> int:
    return -(-count // unit) * unit

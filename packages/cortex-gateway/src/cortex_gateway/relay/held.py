"""How much the gateway holds for requests that have no answer yet: bounded in bytes, refused beyond."""

from __future__ import annotations

from cortex_core.errors import CortexError


class Held:
    """The bytes of all bodies from their arrival to the first event of their answer."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0

    def charge(self, size_bytes: int) -> Charge:
        """Room for a body, before it is read.

        Raises:
            CortexError: no_capacity; come again.
        """
        charge = Charge(self)
        charge.grow_to(size_bytes)
        return charge


class Charge:
    """Room taken in `Held`. Calling it gives the room back, once."""

    __slots__ = ("_held", "_size_bytes")

    def __init__(self, held: Held) -> None:
        self._held = held
        self._size_bytes = 0

    def grow_to(self, size_bytes: int) -> None:
        """More than was declared has come. Raises as `Held.charge` does."""
        more, held = size_bytes - self._size_bytes, self._held
        if more <= 0:
            return
        if held.held_bytes + more > held.limit_bytes:
            raise CortexError("no_capacity", "too many requests wait for their answer: the gateway holds no more")
        held.held_bytes += more
        self._size_bytes = size_bytes

    def __call__(self) -> None:
        self._held.held_bytes -= self._size_bytes
        self._size_bytes = 0

"""Which replica of a model a request goes to: where its prompt's beginning probably lies in the prefix cache.

Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam 2016), by rendezvous instead of a ring. No
state is shared, so all gateways agree.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from msgspec import Struct

BOUND = 0.75
"""The share of a replica's slots up to which a key keeps its place. A bound of 1.25 times the mean alone would send
a third of the sessions away from their cache whenever few requests are in flight."""


class Seat(Struct, frozen=True):
    """A replica that could take the request now."""

    name: str  # stable over gateways: neuron and replica
    held: int  # requests it has
    slots: int  # that it takes at once; 0: without bound
    demoted: bool = False  # slower or less reliable than its siblings


def seat_for(key: str, seats: Sequence[Seat]) -> int:
    """The index of the seat that the key's request takes. `seats` is not empty.

    Without a key, and past the bound: the least loaded.
    """
    indices = [i for i, seat in enumerate(seats) if not seat.demoted] or list(range(len(seats)))
    if len(indices) == 1:
        return indices[0]
    if key:
        mean = sum(seat.held for seat in seats) / len(seats)
        for index in sorted(indices, key=lambda i: weight(key, seats[i].name), reverse=True):
            seat = seats[index]
            if not seat.slots or seat.held < max(BOUND * seat.slots, 1.25 * mean):
                return index
    return min(indices, key=lambda i: (load(seats[i]), weight(key, seats[i].name)))


def load(seat: Seat) -> float:
    return seat.held / (seat.slots or 256)


def weight(key: str, name: str) -> int:
    """Highest random weight (Thaler & Ravishankar 1998): each key has its own order of all replicas."""
    return int.from_bytes(hashlib.blake2b(f"{key}\0{name}".encode(), digest_size=8).digest(), "big")

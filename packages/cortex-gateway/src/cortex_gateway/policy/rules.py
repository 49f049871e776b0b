"""What the configuration says of the decisions."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class Rules(Struct, frozen=True, kw_only=True):
    gateway: str = "gateway"  # our own name, different from every other gateway's
    strategy: Literal["cost", "lru", "priority"] = "cost"
    defrag_after: int = 0  # swaps
    max_waiters: int = 1000  # for a model

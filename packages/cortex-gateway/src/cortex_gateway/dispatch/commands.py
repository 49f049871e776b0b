"""What the dispatcher can do to the world, and how the world may refuse."""

from __future__ import annotations

from typing import Protocol

from cortex_core.neuron_api import (
    CordonRequest,
    DemandRequest,
    LoadRequest,
    Operation,
    PinRequest,
    Refusal,
    UnloadRequest,
)


class Refused(Exception):
    """A neuron will not, and says why, with its present state."""

    def __init__(self, refusal: Refusal, status: int = 409) -> None:
        super().__init__(f"{refusal.code}: {refusal.message}")
        self.refusal = refusal
        self.status = status


class Unreachable(Exception):
    """No answer came from a neuron; whether it acted is unknown, and its next report tells."""


class Commands(Protocol):
    async def load(self, neuron: str, request: LoadRequest) -> Operation:
        """One swap; returns when the model serves.

        Raises:
            Refused: with the neuron's reason and present state.
            Unreachable: the connection failed or broke.
        """
        ...

    async def unload(self, neuron: str, request: UnloadRequest) -> Operation:
        """Let a replica go. Raises as `load` does."""
        ...

    async def demand(self, neuron: str, request: DemandRequest) -> None:
        """Tell what waits here. Raises as `load` does; losing one is harmless, the next comes in a second."""
        ...


class OperatorCommands(Commands, Protocol):
    """What only a person decides."""

    async def pin(self, neuron: str, request: PinRequest) -> Operation: ...

    async def cordon(self, neuron: str, request: CordonRequest, cordoned: bool) -> Operation: ...

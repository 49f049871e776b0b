"""Why a model is not served, and the words for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct, to_builtins

from cortex_core.errors import CortexError
from cortex_gateway.policy.picture import Picture
from cortex_gateway.policy.placement import Candidate
from cortex_gateway.policy.recovery import COMING


class Refuse(Struct, frozen=True, kw_only=True):
    """Tell every waiter of the model why it cannot be served."""

    model: str
    kind: str  # of cortex_core.errors
    message: str
    retry_after_s: float | None = None
    details: Mapping[str, Any] = {}

    def error(self) -> CortexError:
        """For one of them: its Retry-After is its own."""
        return CortexError(
            self.kind,
            self.message,
            param="model" if self.kind in {"model_not_found", "model_cannot_fit"} else None,
            retry_after_s=self.retry_after_s,
            details=self.details,
        )


def cannot_fit(model: str, considered: tuple[Candidate, ...]) -> Refuse:
    """The final no, with the numbers."""
    if not considered:
        return Refuse(model=model, kind="no_neuron", message="no neuron is configured")
    reasons = "; ".join(f"{c.neuron}: {c.reason}" for c in considered)
    details = {
        "need_mb": max(c.need_mb for c in considered),
        "neurons": [
            {"neuron": c.neuron, "reason": c.reason, "need_mb": c.need_mb, "devices": to_builtins(c.devices)}
            for c in considered
        ],
    }
    return Refuse(model=model, kind="model_cannot_fit", message=f"{model} cannot fit: {reasons}", details=details)


def too_late(picture: Picture, model: str, hold_s: float) -> Refuse:
    """For one who waited `hold_s`: the load goes on without it."""
    for _, replica in picture.replicas(model):
        if replica.state in COMING:
            phase = f"{replica.phase or replica.state}, {replica.progress:.0%}"
            left = f", about {replica.expected_s:.0f} s left" if replica.expected_s else ""
            return Refuse(model=model, kind="loading", message=f"{model} is loading ({phase}{left})")
    if not any(neuron.up for neuron in picture.fleet.neurons.values()):
        return Refuse(model=model, kind="no_neuron", message="no neuron is up")
    return Refuse(model=model, kind="no_capacity", message=f"no room for {model} within {hold_s:.0f} s")

"""The fleet in virtual time: the production dispatcher and policies against simulated neurons, clients and faults."""

from __future__ import annotations

from cortex_gateway.sim.draw import drawn
from cortex_gateway.sim.run import Answer, Outcome, simulate
from cortex_gateway.sim.scenario import Scenario
from cortex_gateway.sim.trouble import Fault

__all__ = ["Answer", "Fault", "Outcome", "Scenario", "drawn", "simulate"]

"""One start of an engine: bound by its progress, which is told to whoever waits, and not too often."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from neuron.engines.base import PHASES, Engine, EngineFailed, Progress
from neuron.supervisor.resident import Resident

STALL_S = 120.0  # without any progress for so long it hangs
PROGRESS_EVERY_S = 0.2  # between two steps that are told, within a phase


class Start:
    """Notes on the resident how far its engine has come.

    Args:
        deadline_s: of all of it, whatever its progress.
        on_step: told the phase, and the progress from 0 to 1.
    """

    def __init__(
        self,
        resident: Resident,
        clock: Callable[[], float],
        deadline_s: float,
        on_step: Callable[[str, float], None],
    ) -> None:
        self._resident = resident
        self._clock = clock
        self._on_step = on_step
        self._began = self._told_at = clock()
        self._deadline = self._began + deadline_s
        self._bound = asyncio.timeout_at(min(self._deadline, self._began + STALL_S))
        resident.progressed_at = self._began

    async def run(self, load: Callable[[Callable[[Progress], None]], Awaitable[Engine]]) -> Engine:
        """The engine that `load` starts; it is handed what notes its progress. Raises EngineFailed."""
        try:
            async with self._bound:
                return await load(self._note)
        except TimeoutError as error:
            text = f"it hangs: given up after {self._clock() - self._began:.0f} s"
            raise EngineFailed(self._resident.phase or "fork", text) from error

    def _note(self, progress: Progress) -> None:
        resident, now = self._resident, self._clock()
        resident.progressed_at = now
        if not self._bound.expired():
            self._bound.reschedule(min(self._deadline, now + STALL_S))
        changed = progress.phase != resident.phase
        resident.phase, resident.reason = progress.phase, progress.detail
        resident.progress = max(resident.progress, overall(progress))
        if changed or now - self._told_at >= PROGRESS_EVERY_S:
            self._told_at = now
            self._on_step(resident.phase, resident.progress)


def overall(progress: Progress) -> float:
    """A load's progress from 0 to 1, each phase counting alike."""
    index = PHASES.index(progress.phase) if progress.phase in PHASES else 0
    return (index + min(1.0, max(0.0, progress.done))) / len(PHASES)

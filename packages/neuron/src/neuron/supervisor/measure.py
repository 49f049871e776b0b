"""What a load really took of its devices. Beyond weights and cache it is overhead, which the next load counts with."""

from __future__ import annotations

import asyncio
import logging

from neuron.engines.base import Engine, LoadSpec
from neuron.hardware.host import Host

log = logging.getLogger(__name__)

ANSWER_S = 10.0  # of a driver: the model is ready, and must not wait for one that hangs


class Measure:
    """Of one load: made before it, asked after it, both in the load's turn on its devices.

    The driver tells what each process uses; where it does not (in a container, whose processes have other numbers),
    what the device's memory in use has grown by is taken for it.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._before: dict[str, int] = {}

    async def begin(self) -> None:
        self._before = await self._used_mb()

    async def overhead_mb(self, engine: Engine, spec: LoadSpec, weights_mb: int) -> int:
        """Of the device where it is most; 0 where nobody can tell."""
        if not self._before:
            return 0
        try:
            async with asyncio.timeout(ANSWER_S):
                after = await self._used_mb()
                told = await self._host.used_by(engine.facts.pids)
        except TimeoutError:
            return 0
        used = told or {device: after.get(device, 0) - self._before.get(device, 0) for device in spec.devices}
        overhead_mb = max(used.values()) - -(-weights_mb // len(spec.devices)) - spec.kv_cache_mb
        log.info("%s (%s) really uses %s MB; overhead %d MB", spec.model, spec.replica, used, overhead_mb)
        return max(0, overhead_mb)

    async def _used_mb(self) -> dict[str, int]:
        if self._host.simulated or self._host.kind != "cuda":
            return {}
        await self._host.look()
        return {f"cuda:{gpu.index}": gpu.used_mb for gpu in self._host.probe.gpus}

"""This host as it is now: its devices, and what lies in its model folder. Looked at again and again, off the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from pathlib import Path

from cortex_core.config import NeuronConfig
from cortex_core.fleet import Device
from neuron.hardware import inventory
from neuron.hardware.inventory import Probe
from neuron.hardware.probe import Prober
from neuron.sizing.checkpoints import Facts, fingerprint, list_checkpoints, readable

FOLDER_EVERY = 5  # looks at the devices for one at the model folder


class Host:
    """`look` refreshes everything; between two looks all of it is plain values."""

    def __init__(self, config: NeuronConfig) -> None:
        self.simulated = config.engine.kind == "sim"
        self.models_dir = Path(config.neuron.models_dir)
        self.probe = Probe()
        self.checkpoints: dict[str, Facts] = {}
        self._declared = config.devices
        self._prober = Prober()
        self._fingerprint: int | None = None
        self._readable = True
        self._looks = 0
        self._looked = asyncio.Event()
        self._looking = asyncio.Lock()

    async def look(self) -> bool:
        """Look again; whether the model folder has changed."""
        self.probe = await asyncio.to_thread(self._prober.look, self.models_dir)
        self._looks += 1
        changed = self._looks % FOLDER_EVERY == 1 and await self._look_at_folder()
        self._looked.set()
        return changed

    async def find(self, name: str) -> None:
        """Make sure that a checkpoint which lies there is known, be it a moment old or this daemon a moment young."""
        await self._looked.wait()
        if name not in self.checkpoints:
            await self._look_at_folder()

    async def _look_at_folder(self) -> bool:
        async with self._looking:  # who comes meanwhile gets what this look finds
            self._readable = await asyncio.to_thread(readable, self.models_dir)
            seen = await asyncio.to_thread(fingerprint, self.models_dir)
            if seen == self._fingerprint:
                return False
            found = await asyncio.to_thread(list_checkpoints, self.models_dir)
            self._fingerprint = seen
            self.checkpoints = {facts.name: facts for facts in found}
            return True

    async def used_by(self, pids: Collection[int]) -> dict[str, int]:
        """Device → megabytes that these processes really use, where that can be told."""
        return await asyncio.to_thread(self._prober.used_by, pids)

    def devices(self, held_mb: Mapping[str, int]) -> tuple[Device, ...]:
        return inventory.devices(self.probe, self._declared, held_mb, simulated=self.simulated)

    def problems(self) -> list[str]:
        found = inventory.problems(self.probe, self._declared, simulated=self.simulated)
        if not self._readable and not self.simulated:
            found.append(f"models_dir {self.models_dir} is not there or cannot be read")
        return found

    @property
    def kind(self) -> str:
        """Of the devices here: cuda or cpu."""
        devices = self.devices({})
        return devices[0].kind if devices else "cpu"

    def close(self) -> None:
        self._prober.close()

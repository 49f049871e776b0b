"""What the probe read and what the configuration says → the devices of this host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct, structs

from cortex_core.config.neuron import DeviceEntry
from cortex_core.fleet import Device


class Gpu(Struct, frozen=True, kw_only=True):
    """One CUDA device as the driver describes it."""

    index: int
    name: str
    memory_mb: int
    used_mb: int = 0
    compute_capability: str = ""
    utilization: float | None = None  # 0 to 1
    temperature_c: float | None = None
    power_w: float | None = None


class Probe(Struct, frozen=True, kw_only=True):
    """What one look at the host showed."""

    gpus: tuple[Gpu, ...] = ()
    driver_version: str = ""
    cuda_version: str = ""
    cuda_unavailable_reason: str = ""
    host_memory_mb: int = 0
    host_available_mb: int = 0  # of it, without swapping
    disk_mb: int = 0  # of the model folder's file system
    disk_free_mb: int = 0
    processor: str = ""


def devices(
    probe: Probe, declared: Sequence[DeviceEntry], held_mb: Mapping[str, int], *, simulated: bool = False
) -> tuple[Device, ...]:
    """The devices that may hold replicas, in the order of their numbers.

    A declared device overrides the memory of the one found, and never exceeds it. Without a GPU the processor is the
    only device; what is declared then stands. A simulated neuron has exactly the devices that are declared.

    Args:
        held_mb: device id → what our own replicas hold, to tell it from what strangers use.
    """
    by_id = {entry.id: entry.memory_mb for entry in declared}
    if simulated:
        memory = by_id or {"cpu:0": probe.host_memory_mb}
        return tuple(
            Device(id=name, name="simulated", kind=name.partition(":")[0], memory_mb=mb) for name, mb in memory.items()
        )
    if not probe.gpus:
        memory_mb = by_id.get("cpu:0", probe.host_memory_mb)
        return (Device(id="cpu:0", name=probe.processor, kind="cpu", memory_mb=memory_mb),)
    return tuple(_cuda(gpu, by_id, held_mb) for gpu in sorted(probe.gpus, key=lambda gpu: gpu.index))


def _cuda(gpu: Gpu, declared: Mapping[str, int], held_mb: Mapping[str, int]) -> Device:
    name = f"cuda:{gpu.index}"
    found = Device(
        id=name,
        name=gpu.name,
        kind="cuda",
        memory_mb=gpu.memory_mb,
        used_by_others_mb=max(0, gpu.used_mb - held_mb.get(name, 0)),
        compute_capability=gpu.compute_capability,
        utilization=gpu.utilization,
        temperature_c=gpu.temperature_c,
        power_w=gpu.power_w,
    )
    if name in declared:
        found = structs.replace(found, memory_mb=min(gpu.memory_mb, declared[name]))
    return found


def problems(probe: Probe, declared: Sequence[DeviceEntry], *, simulated: bool = False) -> list[str]:
    """What was declared and is not there, in words."""
    if simulated:
        return []
    here = {f"cuda:{gpu.index}" for gpu in probe.gpus} or {"cpu:0"}
    why = f": {probe.cuda_unavailable_reason}" if probe.cuda_unavailable_reason else ""
    return [f"[[devices]] {entry.id} is not on this host{why}" for entry in declared if entry.id not in here]

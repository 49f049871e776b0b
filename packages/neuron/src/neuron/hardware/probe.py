"""One look at the host: NVIDIA's management library where there is one, /proc everywhere.

The library is loaded at the first look, and a machine without driver, or with a broken one, is a machine without GPU
and a reason. A GPU in MIG mode is left out: its slices have no stable numbers to pin an engine to.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Collection
from pathlib import Path
from typing import Any

from cortex_core.fleet import MEBIBYTE
from neuron.hardware.inventory import Gpu, Probe


class Prober:
    """Keeps the library open between looks. `look` blocks for a few milliseconds: call it from a thread."""

    def __init__(self) -> None:
        self._nvml: Any = None
        self._reason = ""
        self._tried = False

    def look(self, models_dir: Path) -> Probe:
        gpus: tuple[Gpu, ...] = ()
        driver = cuda = ""
        nvml = self._library()
        reason = self._reason
        if nvml is not None:
            try:
                driver, cuda = str(nvml.nvmlSystemGetDriverVersion()), _cuda_version(nvml)
                gpus, reason = _gpus(nvml)
            except nvml.NVMLError as error:
                reason = f"the NVIDIA driver answers: {error}"
        disk_mb, disk_free_mb = disk_of(models_dir)
        return Probe(
            gpus=gpus,
            driver_version=driver,
            cuda_version=cuda,
            cuda_unavailable_reason="" if gpus else reason,
            host_memory_mb=host_memory_mb(),
            host_available_mb=host_available_mb(),
            processor=processor(),
            disk_mb=disk_mb,
            disk_free_mb=disk_free_mb,
        )

    def used_by(self, pids: Collection[int]) -> dict[str, int]:
        """Device → megabytes that these processes use of it; empty where nobody can tell (no GPU, or a container)."""
        nvml = self._library()
        if nvml is None:
            return {}
        used: dict[str, int] = {}
        try:
            for index in range(nvml.nvmlDeviceGetCount()):
                for process in nvml.nvmlDeviceGetComputeRunningProcesses(nvml.nvmlDeviceGetHandleByIndex(index)):
                    if process.pid in pids and process.usedGpuMemory:
                        name = f"cuda:{index}"
                        used[name] = used.get(name, 0) + int(process.usedGpuMemory) // MEBIBYTE
        except nvml.NVMLError:
            return {}
        return used

    def close(self) -> None:
        if self._nvml is not None:
            self._nvml.nvmlShutdown()
            self._nvml = None
            self._tried = False

    def _library(self) -> Any:
        if self._tried:
            return self._nvml
        self._tried = True
        if not driver_present():
            self._reason = "no NVIDIA driver on this host"
            return None
        try:
            import pynvml
        except ImportError:
            self._reason = "nvidia-ml-py is not installed"
            return None
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            self._reason = f"the NVIDIA driver cannot be used: {error}"
            return None
        self._nvml = pynvml
        return pynvml


def driver_present() -> bool:
    """Spares a machine without a card the library's 3 MB."""
    return Path("/dev/nvidiactl").exists() or Path("/proc/driver/nvidia").exists() or Path("/dev/dxg").exists()


def _cuda_version(nvml: Any) -> str:
    number = int(nvml.nvmlSystemGetCudaDriverVersion())
    return f"{number // 1000}.{number % 1000 // 10}"


def _gpus(nvml: Any) -> tuple[tuple[Gpu, ...], str]:
    found, sliced = [], 0
    for index in range(nvml.nvmlDeviceGetCount()):
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        if _mig(nvml, handle):
            sliced += 1
        else:
            found.append(_gpu(nvml, handle, index))
    if sliced and not found:
        return (), f"{sliced} GPU(s) in MIG mode, which is not supported"
    return tuple(found), "the driver lists no GPU"


def _mig(nvml: Any, handle: Any) -> bool:
    try:
        return bool(nvml.nvmlDeviceGetMigMode(handle)[0])
    except nvml.NVMLError:  # a card without MIG
        return False


def _gpu(nvml: Any, handle: Any, index: int) -> Gpu:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    return Gpu(
        index=index,
        name=str(nvml.nvmlDeviceGetName(handle)),
        memory_mb=int(memory.total) // MEBIBYTE,
        used_mb=int(memory.used) // MEBIBYTE,
        compute_capability=f"{major}.{minor}",
        utilization=_optional(nvml, lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100),
        temperature_c=_optional(nvml, lambda: float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))),
        power_w=_optional(nvml, lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000),
    )


def _optional(nvml: Any, read: Any) -> float | None:
    """Not every card tells everything."""
    try:
        return float(read())
    except nvml.NVMLError:
        return None


def host_memory_mb() -> int:
    """All of the host's memory, or of the control group that holds us where that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            total = min(total, int(Path(limit).read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return total // MEBIBYTE


def host_available_mb() -> int:
    """What new work can have of the host's memory."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) // 1024
    return 0


def disk_of(folder: Path) -> tuple[int, int]:
    """Megabytes of its file system, and of these free for us; 0 where there is no such folder."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return 0, 0
    return found.f_blocks * found.f_frsize // MEBIBYTE, found.f_bavail * found.f_frsize // MEBIBYTE


def processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def rss_mb() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MEBIBYTE

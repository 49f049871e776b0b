"""`GET /metrics`: this neuron's devices and replicas as they are now, and its engines' own series, merged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from cortex_core.fleet import MEBIBYTE, Device, State
from cortex_core.http import BodyTooLarge, BrokenResponse, Client, ConnectFailed
from neuron.api.exposition import Family, merge, render, sample
from neuron.build import build
from neuron.hardware.host import Host
from neuron.hardware.probe import rss_mb
from neuron.supervisor.replicas import Replicas

SCRAPE_S = 2.0  # an engine that answers later is left out
SCRAPE_LIMIT = 8 * 2**20  # bytes
ENGINE_PREFIXES = ("vllm:", "sim:")

DEVICE_METRICS: tuple[tuple[str, str, Callable[[Device], float | None]], ...] = (
    ("neuron_device_memory_bytes", "Memory of a device.", lambda d: d.memory_mb * MEBIBYTE),
    (
        "neuron_device_memory_others_bytes",
        "Memory that processes other than ours use.",
        lambda d: d.used_by_others_mb * MEBIBYTE,
    ),
    ("neuron_device_utilization_ratio", "How busy a device was, 0 to 1.", lambda d: d.utilization),
    ("neuron_device_temperature_celsius", "Temperature of a device.", lambda d: d.temperature_c),
    ("neuron_device_power_watts", "Power that a device draws.", lambda d: d.power_w),
)
HELP = {name: text for name, text, _ in DEVICE_METRICS} | {
    "neuron_build_info": "1, labelled with the version.",
    "neuron_resident_memory_bytes": "Memory of the daemon itself.",
    "neuron_device_memory_held_bytes": "Memory that replicas hold or are promised.",
    "neuron_replica_state": "1 for the state that a replica is in.",
    "neuron_replica_in_flight": "Requests that hold a lease.",
    "neuron_host_memory_available_bytes": "Host memory for new work.",
    "neuron_models_disk_free_bytes": "Free space where the models lie.",
    "neuron_replica_queue": "Requests that wait for a lease.",
}
"""Every metric of the neuron's own, all of them gauges."""


class Telemetry:
    def __init__(self, host: Host, replicas: Replicas) -> None:
        self._host = host
        self._replicas = replicas

    async def render(self) -> bytes:
        ready = [(r.model, r.client) for r in self._replicas if r.client is not None and r.state is State.READY]
        texts = await asyncio.gather(*(scrape(client) for _, client in ready))
        engines = merge({model: text for (model, _), text in zip(ready, texts, strict=True)}, ENGINE_PREFIXES)
        return render([*self._own(), *engines])

    def _own(self) -> list[Family]:
        held = self._replicas.held_mb()
        families = [
            _gauge("neuron_build_info", [({"version": build()}, 1.0)]),
            _gauge("neuron_resident_memory_bytes", [({}, rss_mb() * MEBIBYTE)]),
        ]
        probe = self._host.probe
        families += [
            _gauge("neuron_host_memory_available_bytes", [({}, float(probe.host_available_mb * MEBIBYTE))]),
            _gauge("neuron_models_disk_free_bytes", [({}, float(probe.disk_free_mb * MEBIBYTE))]),
        ]
        devices = self._host.devices(held)
        for name, _, read in DEVICE_METRICS:
            found = [({"device": device.id}, value) for device in devices if (value := read(device)) is not None]
            families.append(_gauge(name, found))
        families.append(
            _gauge(
                "neuron_device_memory_held_bytes",
                [({"device": device.id}, float(held.get(device.id, 0) * MEBIBYTE)) for device in devices],
            )
        )
        replicas = self._replicas.views()
        families += [
            _gauge(
                "neuron_replica_state",
                [({"model": r.model, "replica": r.id, "state": r.state.value}, 1.0) for r in replicas],
            ),
            _gauge(
                "neuron_replica_in_flight",
                [({"model": r.model, "replica": r.id}, float(r.in_flight)) for r in replicas],
            ),
            _gauge(
                "neuron_replica_queue",
                [({"model": r.model, "replica": r.id}, float(r.queue)) for r in replicas],
            ),
        ]
        return [family for family in families if family.samples]


async def scrape(client: Client, timeout_s: float = SCRAPE_S) -> str:
    """What an engine exposes; empty when it does not answer in time."""
    try:
        async with asyncio.timeout(timeout_s):
            async with client.request("GET", "/metrics") as response:
                body = await response.read(SCRAPE_LIMIT)
                return body.decode(errors="replace") if response.status == 200 else ""
    except (TimeoutError, ConnectFailed, BrokenResponse, BodyTooLarge):
        return ""


def _gauge(name: str, found: list[tuple[dict[str, str], float]]) -> Family:
    return Family(
        name=name, kind="gauge", help=HELP[name], samples=[sample(name, labels, value) for labels, value in found]
    )

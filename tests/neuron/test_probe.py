"""A look at the host, with NVIDIA's library played by a module of the same shape: there, broken, or not at all."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from msgspec import structs

from cortex_core.config.neuron import EngineTable, NeuronConfig, NeuronTable
from cortex_core.fleet import MEBIBYTE
from neuron.engines.base import LoadSpec
from neuron.hardware import probe
from neuron.hardware.host import Host
from neuron.hardware.probe import Prober, disk_of, host_available_mb, host_memory_mb, rss_mb
from neuron.supervisor.measure import Measure
from tests.neuron.fleet_of_one import MemoryEngine

GIBIBYTE = 1024 * MEBIBYTE
NOWHERE = Path("/nowhere")


class NVMLError(Exception):
    pass


def library(cards: list[dict[str, Any]], *, starts: bool = True) -> ModuleType:
    """`pynvml` for a host with these cards. A card's missing key is what it does not tell."""

    def told(card: dict[str, Any], key: str) -> Any:
        if key not in card:
            raise NVMLError("not supported")
        return card[key]

    def start() -> None:
        if not starts:
            raise NVMLError("driver/library version mismatch")

    nvml: Any = ModuleType("pynvml")
    nvml.NVMLError = NVMLError
    nvml.NVML_TEMPERATURE_GPU = 0
    nvml.nvmlInit = start
    nvml.nvmlShutdown = lambda: None
    nvml.nvmlSystemGetDriverVersion = lambda: "580.10"
    nvml.nvmlSystemGetCudaDriverVersion = lambda: 13_010
    nvml.nvmlDeviceGetCount = lambda: len(cards)
    nvml.nvmlDeviceGetHandleByIndex = lambda index: cards[index]
    nvml.nvmlDeviceGetName = lambda card: card["name"]
    nvml.nvmlDeviceGetMemoryInfo = lambda card: SimpleNamespace(total=24 * GIBIBYTE, used=told(card, "used"))
    nvml.nvmlDeviceGetCudaComputeCapability = lambda card: (8, 6)
    nvml.nvmlDeviceGetMigMode = lambda card: told(card, "mig")
    nvml.nvmlDeviceGetUtilizationRates = lambda card: SimpleNamespace(gpu=told(card, "gpu"))
    nvml.nvmlDeviceGetTemperature = lambda card, _: told(card, "temperature")
    nvml.nvmlDeviceGetPowerUsage = lambda card: told(card, "power")
    nvml.nvmlDeviceGetComputeRunningProcesses = lambda card: [
        SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in told(card, "processes")
    ]
    return nvml


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Any:
    def install(cards: list[dict[str, Any]], **options: Any) -> Prober:
        monkeypatch.setattr(probe, "driver_present", lambda: True)
        monkeypatch.setitem(sys.modules, "pynvml", library(cards, **options))
        return Prober()

    return install


def test_a_card_is_described_as_far_as_it_tells(nvml: Any) -> None:
    full = {"name": "RTX 3090", "used": 3 * GIBIBYTE, "mig": (0, 0), "gpu": 50, "temperature": 61, "power": 200_000}
    seen = nvml([full, {"name": "old", "used": 0}]).look(NOWHERE)
    assert (seen.driver_version, seen.cuda_version, seen.cuda_unavailable_reason) == ("580.10", "13.1", "")
    first, second = seen.gpus
    assert (first.memory_mb, first.used_mb, first.compute_capability) == (24_576, 3072, "8.6")
    assert (first.utilization, first.temperature_c, first.power_w) == (0.5, 61.0, 200.0)
    assert (second.utilization, second.temperature_c, second.power_w) == (None, None, None)


def test_cards_in_slices_are_left_out_and_said(nvml: Any) -> None:
    sliced = {"name": "A100", "used": 0, "mig": (1, 1)}
    assert "1 GPU(s) in MIG mode" in nvml([sliced]).look(NOWHERE).cuda_unavailable_reason
    [whole] = nvml([sliced, {"name": "B", "used": 0}]).look(NOWHERE).gpus
    assert (whole.index, whole.name) == (1, "B")


@pytest.mark.parametrize(
    ("cards", "starts", "words"),
    [
        ([], True, "lists no GPU"),
        ([{"name": "lost"}], True, "the NVIDIA driver answers: not supported"),
        ([], False, "the NVIDIA driver cannot be used: driver/library version mismatch"),
    ],
)
def test_a_broken_driver_is_no_gpu_and_a_reason(nvml: Any, cards: list[Any], starts: bool, words: str) -> None:
    seen = nvml(cards, starts=starts).look(NOWHERE)
    assert seen.gpus == ()
    assert words in seen.cuda_unavailable_reason
    assert seen.host_memory_mb > 0


def test_without_a_driver_the_library_is_not_even_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "driver_present", lambda: False)
    monkeypatch.setitem(sys.modules, "pynvml", None)  # importing it would fail
    prober = Prober()
    assert prober.look(NOWHERE).cuda_unavailable_reason == "no NVIDIA driver on this host"
    assert prober.used_by({1}) == {}
    prober.close()


def test_what_processes_use_is_summed_for_each_card(nvml: Any) -> None:
    cards = [
        {"name": "a", "processes": [(1, GIBIBYTE), (2, GIBIBYTE), (3, 9 * GIBIBYTE)]},
        {"name": "b", "processes": [(1, None)]},
    ]
    assert nvml(cards).used_by({1, 2}) == {"cuda:0": 2048}
    assert nvml([{"name": "silent"}]).used_by({1}) == {}


def test_the_hosts_own_figures_are_plausible() -> None:
    assert 100 < host_memory_mb() < 1 << 24
    assert 5 < rss_mb() < 4096
    assert host_available_mb() > 0
    total_mb, free_mb = disk_of(Path("/tmp"))
    assert 0 < free_mb <= total_mb
    assert disk_of(NOWHERE) == (0, 0)


@pytest.mark.parametrize("told", [True, False], ids=["by process", "by what the memory in use grew by"])
async def test_what_a_load_took_beyond_weights_and_cache_is_its_overhead(nvml: Any, tmp_path: Path, told: bool) -> None:
    card: dict[str, Any] = {"name": "RTX 3090", "used": 2 * GIBIBYTE}
    nvml([card])
    host = Host(NeuronConfig(neuron=NeuronTable(models_dir=str(tmp_path)), engine=EngineTable(kind="vllm")))
    await host.look()
    measure = Measure(host)
    await measure.begin()
    card["used"] = 7 * GIBIBYTE
    if told:
        card["processes"] = [(11, 3 * GIBIBYTE), (12, 1 * GIBIBYTE), (99, 9 * GIBIBYTE)]
    spec = LoadSpec(
        replica="r1",
        model="m",
        checkpoint=tmp_path,
        devices=("cuda:0",),
        memory_mb=6000,
        kv_cache_mb=1024,
        context=0,
        options={},
        socket=tmp_path / "s",
        log=tmp_path / "l",
    )
    engine = MemoryEngine(spec)
    engine.facts = structs.replace(engine.facts, pids=(11, 12))
    assert await measure.overhead_mb(engine, spec, weights_mb=2000) == (4 if told else 5) * 1024 - 2000 - 1024
    host.close()

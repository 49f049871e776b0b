"""What was probed and what was declared → devices."""

from __future__ import annotations

from cortex_core.config.neuron import DeviceEntry
from neuron.hardware.inventory import Gpu, Probe, devices, problems

CARDS = Probe(
    gpus=(
        Gpu(index=1, name="RTX 5090", memory_mb=32_000, used_mb=900, compute_capability="12.0"),
        Gpu(index=0, name="RTX 3090", memory_mb=24_000, used_mb=10_000, compute_capability="8.6", temperature_c=41.0),
    ),
    host_memory_mb=64_000,
)
NO_CARD = Probe(host_memory_mb=8000, processor="a processor", cuda_unavailable_reason="no NVIDIA driver on this host")


def test_cards_stand_in_the_order_of_their_numbers() -> None:
    found = devices(CARDS, (), {})
    assert [(d.id, d.name, d.memory_mb, d.compute_capability) for d in found] == [
        ("cuda:0", "RTX 3090", 24_000, "8.6"),
        ("cuda:1", "RTX 5090", 32_000, "12.0"),
    ]
    assert found[0].temperature_c == 41.0


def test_others_use_what_is_used_and_not_ours() -> None:
    assert [d.used_by_others_mb for d in devices(CARDS, (), {"cuda:0": 8000, "cuda:1": 20_000})] == [2000, 0]


def test_a_declaration_lowers_a_cards_memory_and_never_raises_it() -> None:
    entries = (DeviceEntry(id="cuda:0", memory_mb=20_000), DeviceEntry(id="cuda:1", memory_mb=99_000))
    assert [d.memory_mb for d in devices(CARDS, entries, {})] == [20_000, 32_000]


def test_without_a_card_the_processor_is_the_only_device() -> None:
    [device] = devices(NO_CARD, (), {})
    assert (device.id, device.kind, device.memory_mb, device.name) == ("cpu:0", "cpu", 8000, "a processor")
    [device] = devices(NO_CARD, (DeviceEntry(id="cpu:0", memory_mb=4096),), {})
    assert device.memory_mb == 4096


def test_what_is_declared_and_not_there_is_a_problem() -> None:
    entries = (DeviceEntry(id="cuda:0", memory_mb=1), DeviceEntry(id="cpu:0", memory_mb=1))
    assert problems(NO_CARD, entries) == [
        "[[devices]] cuda:0 is not on this host: no NVIDIA driver on this host",
    ]
    assert problems(CARDS, entries) == ["[[devices]] cpu:0 is not on this host"]


def test_a_simulated_neuron_has_what_is_declared_and_says_so() -> None:
    entries = (DeviceEntry(id="cuda:0", memory_mb=24_000), DeviceEntry(id="cuda:1", memory_mb=48_000))
    found = devices(NO_CARD, entries, {}, simulated=True)
    assert [(d.id, d.kind, d.memory_mb, d.name) for d in found] == [
        ("cuda:0", "cuda", 24_000, "simulated"),
        ("cuda:1", "cuda", 48_000, "simulated"),
    ]
    assert problems(NO_CARD, entries, simulated=True) == []

"""What comes goes: after loads and unloads no process, no file and no memory is left; and the daemon stays small."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import BEAST, Cluster
from tests.support import engines
from tests.support.chat import Chat
from tests.support.daemons import NeuronProcess
from tests.support.process import children, rss_mb
from tests.support.until import until

DAEMON_MB = 60.0
CYCLES = 100 if os.environ.get("FAULTS") == "1" else 3
GROWTH_MB = 3.0  # of the daemon over the cycles: noise of the allocator


def files(neuron: NeuronProcess) -> set[Path]:
    """What lies in its sockets' folder."""
    return {path.relative_to(neuron.run_dir) for path in neuron.run_dir.rglob("*")}


def shared_memory() -> set[str]:
    return {path.name for path in Path("/dev/shm").iterdir() if path.name.startswith(("psm_", "vllm_dist_"))}


def cycle(neuron: NeuronProcess) -> float:
    """One load and unload by the original's bodies, and how long the load took."""
    began = time.monotonic()
    status, said = neuron.post("/models/load", {"model_id": BEAST})
    took = time.monotonic() - began
    assert (status, said["replica"]["state"]) == (200, "ready"), said
    status, said = neuron.post("/models/unload", {"model_id": BEAST, "mode": "drain"})
    assert status == 200, said
    return took


def check_small(neuron: NeuronProcess, before_mb: float) -> None:
    after_mb = rss_mb(neuron.pid)
    assert after_mb <= DAEMON_MB
    assert after_mb - before_mb <= GROWTH_MB


def test_a_simulated_replica_leaves_nothing(sim: Cluster) -> None:
    sim.empty()
    neuron = sim.beast
    cycle(neuron)  # the first may import what it needs
    lies, before_mb = files(neuron), rss_mb(neuron.pid)
    for _ in range(5):
        cycle(neuron)
    assert neuron.replicas() == []
    assert files(neuron) == lies
    assert children(neuron.pid) == []
    check_small(neuron, before_mb)


@pytest.mark.engine
@engines.needs_vllm
@pytest.mark.timeout(20 * CYCLES + 100)
def test_a_real_replica_leaves_nothing(vllm: Cluster, record_property: Callable[[str, object], None]) -> None:
    neuron = vllm.beast
    cycle(neuron)
    zygote = engines.zygote(neuron)
    lies, shared, before_mb = files(neuron), shared_memory(), rss_mb(neuron.pid)
    took = [cycle(neuron) for _ in range(CYCLES)]
    until(lambda: children(neuron.pid) == [zygote], what="the zygote alone")
    assert neuron.replicas() == []
    assert files(neuron) == lies
    assert shared_memory() <= shared
    check_small(neuron, before_mb)
    record_property("load_s", statistics.median(took))
    now_mb = rss_mb(neuron.pid)
    print(f"{CYCLES} cycles: a load took {statistics.median(took):.2f} s, RSS {before_mb:.1f} → {now_mb:.1f} MB")  # noqa: T201


@pytest.mark.engine
@engines.needs_vllm
async def test_the_daemon_is_small_while_it_serves(vllm: Cluster, chat: Chat) -> None:
    vllm.load(vllm.beast, BEAST)
    async with asyncio.TaskGroup() as group:
        streams = [group.create_task(chat.ask(BEAST, max_tokens=50, ignore_eos=True)) for _ in range(32)]
    assert all(stream.result().clean for stream in streams)
    assert rss_mb(vllm.beast.pid) <= DAEMON_MB


def test_a_neuron_that_is_told_to_end_does_so_and_leaves_nothing(tmp_path: Path) -> None:
    from tests.support.host import fleet

    with fleet() as host:
        neuron = host.neuron("alone", sim={"load_s": 0.05}, memory_mb=4096)
        cycle(neuron)
        status, _ = neuron.post("/models/load", {"model_id": BEAST})
        assert status == 200
        assert neuron.stop() == 0
        assert not any(path.is_socket() for path in neuron.run_dir.rglob("*"))
        assert "Traceback" not in neuron.log

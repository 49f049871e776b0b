"""The neuron beside stock vLLM's own server: same card, same checkpoint, same run."""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cortex_core.http import Client
from tests.gpu.card import REHEARSAL, Figures
from tests.gpu.test_card import MEMORY_MB, talking
from tests.support.daemons import NeuronProcess
from tests.support.host import Host
from tests.support.ports import free_port
from tests.support.process import Process
from tests.support.until import eventually
from tools.tinymodel.fleet import MODELS

pytestmark = pytest.mark.gpu

STREAMS = (1, 16) if REHEARSAL else (1, 16, 64)
TOKENS = 128
SECONDS = 2.0 if REHEARSAL else 5.0
FIRST, *_ = MODELS


async def measure(client: Client, head: Mapping[str, str], streams: int) -> tuple[float, float]:
    """Tokens a second and the median time to the first token, of so many streams for a few seconds."""
    body = msgspec.json.encode({
        "model": FIRST, "messages": [{"role": "user", "content": "Count to 4"}], "max_tokens": TOKENS,
        "ignore_eos": True, "temperature": 0, "stream": True,
    })  # fmt: skip
    headers = [(b"content-type", b"application/json"), *((k.encode(), v.encode()) for k, v in head.items())]
    ttfts, answers, end = [], 0, time.monotonic() + SECONDS

    async def one() -> None:
        nonlocal answers
        while time.monotonic() < end:
            began = time.monotonic()
            async with client.request("POST", "/v1/chat/completions", headers=headers, body=body) as response:
                assert response.status == 200
                await response.read_some()
                ttfts.append(time.monotonic() - began)
                while await response.read_some():
                    pass
            answers += 1

    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for _ in range(streams):
            group.create_task(one())
    return answers * TOKENS / (time.monotonic() - began), statistics.median(ttfts)


def stock(host: Host, models_dir: Path, port: int) -> Process:
    command: list[Any] = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--model", str(models_dir / FIRST), "--served-model-name", FIRST]
    command += ["--max-model-len", "1024", "--load-format", "safetensors", "--kv-cache-memory-bytes", str(64 << 20)]
    command += ["--uvicorn-log-level", "warning"]
    command += ["--enforce-eager"] if REHEARSAL else ["--gpu-memory-utilization", "0.2"]
    made = Process("stock", command, host.folder / "stock.log", {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"})
    host.processes.append(made)
    return made


async def serves(client: Client, port: int, process: Process) -> None:
    def listening() -> bool:
        import socket

        assert process.running, process.log[-4000:]
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    await eventually(listening, timeout_s=400, what="stock vLLM listens")


@pytest.mark.parametrize("startup", ["max"])
async def test_against_stock(
    host: Host, neuron: NeuronProcess, models_dir: Path, figures: Figures, startup: str
) -> None:
    port = free_port()
    async with talking(neuron) as subject:
        began = time.monotonic()
        profile = {"startup": startup, "limit": {"context": 1024}, "max_in_flight": 256, "vram_mb": MEMORY_MB}
        await subject.load(FIRST, options=profile)
        ours_s = time.monotonic() - began
        ours = {streams: await measure(subject.client, {}, streams) for streams in STREAMS}
        await subject.clear()
    process = stock(host, models_dir, port)
    began = time.monotonic()
    process.start()
    client = Client(f"http://127.0.0.1:{port}", connect_timeout_s=10)
    await serves(client, port, process)
    stock_s = time.monotonic() - began
    theirs = {streams: await measure(client, {}, streams) for streams in STREAMS}
    await client.close()
    process.end()
    figures.add("load, neuron against stock vLLM", f"{ours_s:.1f} s against {stock_s:.1f} s", "≥ 10 ×")
    for streams in STREAMS:
        (our_rate, our_ttft), (their_rate, their_ttft) = ours[streams], theirs[streams]
        figures.add(
            f"{streams} streams, neuron against stock vLLM",
            f"{our_rate:.0f} against {their_rate:.0f} tokens/s (×{our_rate / their_rate:.2f}), "
            f"TTFT {our_ttft * 1000:.0f} against {their_ttft * 1000:.0f} ms",
            "≥ 0.92 for a tiny model",
        )
    assert stock_s > ours_s

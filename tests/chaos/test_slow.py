"""slowhttptest's four attacks, a thousand connections each: a healthy client does not notice (R16)."""

from __future__ import annotations

import asyncio
import shutil
import time
from contextlib import suppress

import pytest

from tests.chaos.stage import Stage, question, staged
from tests.support.figures import Figures, milliseconds, percentile
from tests.support.scale import CHAOS, scaled
from tests.support.scripted import ANSWER, says
from tests.support.wire import request

CONNECTIONS = scaled(200, 1000)
SECONDS = scaled(2, 25)
SLOW: dict[str, list[str]] = {
    "headers": ["-H", "-i", "5", "-x", "24"],
    "bodies": ["-B", "-i", "5", "-x", "10", "-s", "8192", "-t", "POST"],
    "readers": ["-X", "-w", "1", "-y", "10", "-n", "5", "-z", "4", "-k", "3"],
    "ranges": ["-R", "-a", "1", "-b", "3000"],
}


async def ask(stage: Stage, data: bytes) -> float:
    began = time.monotonic()
    async with stage.client() as client:
        await client.send(data)
        assert (await client.answer(timeout_s=20)).status == 200
    return time.monotonic() - began


@pytest.mark.skipif(shutil.which("slowhttptest") is None, reason="slowhttptest is not installed (Debian: slowhttptest)")
async def test_goal_R16_slow_attacks(figures: Figures) -> None:
    async with staged() as stage:
        stage.neuron.answers = says(ANSWER)
        for kind, options in SLOW.items():
            target = "/v1/chat/completions" if kind == "bodies" else "/v1/models"
            command = ["slowhttptest", *options, "-c", str(CONNECTIONS), "-r", str(scaled(200, 500)), "-p", "3"]
            command += ["-l", str(SECONDS), "-u", f"http://{stage.address}{target}"]
            quiet = asyncio.subprocess.DEVNULL
            attack = await asyncio.create_subprocess_exec(*command, cwd=stage.host.folder, stdout=quiet, stderr=quiet)
            times = []
            try:
                while attack.returncode is None:
                    times.append(await ask(stage, request(target="/health")))
                    times.append(await ask(stage, question(stream=False)))
                    await asyncio.sleep(0.01)
            finally:
                with suppress(ProcessLookupError):
                    attack.kill()
                await attack.wait()
            figure = f"{milliseconds(times)}, 0 failed"
            figures.add("R16", f"slow {kind}, {CONNECTIONS:,} connections", "healthy p99 ≤ 100 ms, 0 failed", figure)
            assert percentile(times, 0.99) <= (0.1 if CHAOS else 5.0)

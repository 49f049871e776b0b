"""HTTP/2 is never spoken, however it is asked for (R64): a client gets HTTP/1.1, or nothing."""

from __future__ import annotations

import asyncio
import shutil
import subprocess

import pytest

from tests.chaos.stage import staged
from tests.support.figures import Figures


def no_curl() -> str:
    if shutil.which("curl") is None:
        return "curl is not installed"
    said = subprocess.run(["curl", "--version"], capture_output=True, text=True, check=True)
    return "" if "HTTP2" in said.stdout else "this curl speaks no HTTP/2"


async def version_of(url: str, *options: str) -> str:
    """The version in which curl was answered; 0: it was not."""
    command = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_version}", "--max-time", "10", *options, url]
    pipe = asyncio.subprocess.PIPE
    curl = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=asyncio.subprocess.DEVNULL)
    out, _ = await curl.communicate()
    return out.decode()


@pytest.mark.skipif(bool(no_curl()), reason=no_curl())
async def test_goal_R64_http_2_is_not_spoken(figures: Figures) -> None:
    async with staged() as stage:
        for port in (stage.gateway.port, stage.gateway.metrics_port):
            url = f"http://{stage.gateway.host}:{port}/"
            assert await version_of(url, "--http2") == "1.1"  # Upgrade: h2c
            assert await version_of(url, "--http2-prior-knowledge") == "0"
            assert await version_of(url) == "1.1"
    what = "h2c by Upgrade and by prior knowledge, on both ports"
    figures.add("R64", what, "never negotiated", "HTTP/1.1, and refused")

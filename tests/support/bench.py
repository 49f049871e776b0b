"""Loads on a real device owner, what they tell, and what they may not leave behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp

from neuron.engines.base import Engine, Finished, LoadSpec, Progress
from neuron.hardware.devices import DeviceOwner
from neuron.leftovers import SHARED_MEMORY
from tests.support.process import ROOT, SOURCES, alive
from tests.support.until import until_async

TOY = "tests.support.toy_engine"


class Bench:
    """Folders for one device owner, and loads that remember what they told."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self.run_dir = folder / "run"
        self.run_dir.mkdir(mode=0o700, exist_ok=True)
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join([*SOURCES, str(ROOT)]),
            **environment,
        }
        self.progress: list[Progress] = []
        self.finished: list[Finished] = []
        self._loads = 0
        self._leaders: list[int] = []

    def owner(self, module: str = TOY) -> DeviceOwner:
        return DeviceOwner(
            ("cpu:0",),
            python=sys.executable,
            environment=self.environment,
            cache_dir=self.folder / "cache",
            log_dir=self.folder,
            module=module,
        )

    def spec(self, model: str = "toy", checkpoint: Path | None = None, **changes: Any) -> LoadSpec:
        self._loads += 1
        replica = f"r{self._loads}"
        values: dict[str, Any] = {
            "replica": replica,
            "model": model,
            "checkpoint": checkpoint,
            "devices": ("cpu:0",),
            "memory_mb": 128,
            "kv_cache_mb": 16,
            "context": 0,
            "options": {},
            "socket": self.run_dir / f"{replica}.sock",
            "log": self.folder / f"{replica}.log",
        }
        return LoadSpec(**(values | changes))

    async def load(self, owner: DeviceOwner, spec: LoadSpec) -> Engine:
        self.progress.clear()
        engine = await owner.load(spec, self.progress.append, self.finished.append)
        self._leaders.append(engine.facts.pids[0])
        return engine

    def left(self, *leaders: int) -> list[str]:
        """Files that engines of this bench, or led by `leaders`, have not taken with them."""
        memory = [path.name for pid in (*self._leaders, *leaders) for path in SHARED_MEMORY.glob(f"neuron-{pid}-*")]
        return sorted(path.name for path in self.run_dir.iterdir()) + memory


@contextlib.contextmanager
def bench(**environment: str) -> Iterator[Bench]:
    folder = Path(tempfile.mkdtemp(prefix="eng-", dir="/tmp"))  # a socket's path is short
    try:
        yield Bench(folder, **environment)
    finally:
        shutil.rmtree(folder)


@contextlib.asynccontextmanager
async def running(owner: DeviceOwner) -> AsyncIterator[DeviceOwner]:
    async with asyncio.TaskGroup() as group:
        group.create_task(owner.run())
        try:
            yield owner
        finally:
            await owner.close()


def gone(engine: Engine) -> bool:
    return not any(alive(pid) for pid in engine.facts.pids)


@contextlib.asynccontextmanager
async def client(engine: Engine) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.UnixConnector(path=str(engine.socket))
    async with aiohttp.ClientSession("http://engine", connector=connector) as session:
        yield session


async def chat(engine: Engine, content: str, *, request_id: str = "", **body: Any) -> Any:
    """The whole answer of a chat completion that must succeed."""
    asked = question(content, request_id, body)
    async with client(engine) as session, session.post("/v1/chat/completions", **asked) as answer:
        text = await answer.text()
        assert answer.status == 200, text
        return json.loads(text)


def question(content: str, request_id: str, body: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a POST."""
    messages = [{"role": "user", "content": content}]
    headers = {"x-cortex-request-id": request_id} if request_id else {}
    return {"json": {"messages": messages, "temperature": 0, **body}, "headers": headers}


async def events(answer: aiohttp.ClientResponse) -> AsyncIterator[Any]:
    """The data of a stream's events, [DONE] left out."""
    async for line in answer.content:
        if line.startswith(b"data: ") and line.strip() != b"data: [DONE]":
            yield json.loads(line[6:])


async def metric(engine: Engine, name: str) -> float:
    """The sum of an engine's series whose names begin so."""
    async with client(engine) as session, session.get("/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


async def finished(bench: Bench, request_id: str) -> Finished:
    def told() -> list[Finished]:
        return [one for one in bench.finished if one.request_id == request_id]

    (one,) = await until_async(told, timeout_s=5, what=f"the end of {request_id}")
    return one

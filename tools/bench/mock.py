"""The mock upstream: an engine for the peers, and for our gateway a neuron with one ready replica."""

from __future__ import annotations

import json
import random
import socket
from pathlib import Path
from typing import Any

import msgspec

from cortex_core.dialects import sse
from cortex_core.fleet import Device, Profile, Replica, Share, State
from cortex_core.neuron_api import Discovery, Gauges, Report, Version
from tools.bench.cores import Cores, pinned
from tools.bench.native import build
from tools.runner import client
from tools.runner.children import Children

MODEL, ALIAS = "mock", "other"
TOKENS = 64  # of an answer
_INSTANCE = "mock-1"


class Mock:
    """Runs as long as `children`. Its documents lie in `folder`."""

    def __init__(self, children: Children, folder: Path, cores: Cores) -> None:
        self.port = free_port()
        folder.mkdir()
        for path, document in _documents().items():
            (folder / path).write_bytes(document)
        self.child = children.start("mock", *pinned(cores.mock, build("mock"), str(self.port), folder))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def pace(self, tokens: int = TOKENS, interval_us: int = 0) -> None:
        """From now on streams have so many content events, with a pause before each."""
        client.get(self.port, f"/bench?{tokens},{interval_us}")


def free_port() -> int:
    """A port that nobody listens on, below those that clients are given."""
    for _ in range(1000):
        port = random.randrange(10_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no free port on 127.0.0.1")


def _documents() -> dict[str, bytes]:
    """What a neuron and an engine say of themselves: file name (a path with dots) → bytes."""
    replica = Replica(
        id="mock-r1",
        version=1,
        model=MODEL,
        digest=Profile(id=MODEL).digest,
        state=State.READY,
        devices=(Share("cpu:0", 1000),),
        max_in_flight=1_000_000,
        max_queue_depth=1_000_000,
        tier="running",
    )
    device = Device(id="cpu:0", name="mock", memory_mb=4000)
    report = Report(name="mock", instance_id=_INSTANCE, seq=1, devices=(device,), replicas=(replica,))
    version = msgspec.to_builtins(Version(build="mock", name="mock", instance_id=_INSTANCE))
    discovery = Discovery(name="mock", instance_id=_INSTANCE, hostname="mock", os="mock", devices=(device,))
    engine = {"status": "ok", "model_path": MODEL, "served_model_name": MODEL, "version": "0", "tp_size": 1}
    models = {"object": "list", "data": [{"id": MODEL, "object": "model", "created": 0, "owned_by": "mock"}]}
    documents: dict[str, Any] = {"discovery": discovery, "models": report, "version": version | engine}
    asked_by_peers = "health health_generate get_server_info get_model_info server_info model_info".split()
    documents |= dict.fromkeys(asked_by_peers, engine) | {"v1.models": models}
    events = {
        "events": sse.encode(msgspec.json.encode(report), "snapshot"),
        "heartbeat": sse.encode(msgspec.json.encode(Gauges(seq=1)), "heartbeat"),
    }
    return {name: msgspec.json.encode(document) for name, document in documents.items()} | events


WORDS, THOUGHTS = "hello " * 20, "think " * 20  # the second makes the mock reason first


def messages() -> bytes:
    """The body of a Messages stream."""
    said = [{"role": "user", "content": WORDS}]
    return _compact({"model": MODEL, "max_tokens": TOKENS, "stream": True, "messages": said})


def responses() -> bytes:
    """The body of a Responses stream."""
    return _compact({"model": MODEL, "max_output_tokens": TOKENS, "stream": True, "input": WORDS})


def request(*, model: str = MODEL, words: str = WORDS, stream: bool = False, usage: bool = False) -> bytes:
    """The body of a chat completion. `usage`: the client itself asks for it in the stream."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": words}],
        "max_tokens": TOKENS,
        "stream": stream,
    }
    if usage:
        body["stream_options"] = {"include_usage": True}
    return _compact(body)


def _compact(body: dict[str, Any]) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()

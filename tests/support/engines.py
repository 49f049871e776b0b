"""The processes and figures of a real engine, found without the neuron's help: what is true, not what it says."""

from __future__ import annotations

import importlib.util
import socket
from pathlib import Path

import pytest

from tests.support.daemons import NeuronProcess
from tests.support.process import children, parent

INSTALLED = importlib.util.find_spec("vllm") is not None
needs_vllm = pytest.mark.skipif(not INSTALLED, reason="vLLM is not installed: no real engine can be shown")


def scrape(path: Path) -> str:
    """`GET /metrics` over a unix socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(str(path))
        connection.sendall(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        answer = b""
        while data := connection.recv(65536):
            answer += data
    return answer.decode()


def engine_sockets(neuron: NeuronProcess) -> list[Path]:
    """Where its engines listen."""
    return sorted(path for path in neuron.run_dir.glob("*") if path.is_socket())


def running(neuron: NeuronProcess) -> int:
    """Requests in its engines, running or waiting, by vLLM's own count."""
    total = 0.0
    for path in engine_sockets(neuron):
        for line in scrape(path).splitlines():
            if line.startswith(("vllm:num_requests_running{", "vllm:num_requests_waiting{")):
                total += float(line.rsplit(" ", 1)[1])
    return int(total)


def zygote(neuron: NeuronProcess) -> int:
    """The pid of its one zygote."""
    [pid] = _direct_children(neuron.pid)
    return pid


def engine_host(neuron: NeuronProcess, model: str) -> int:
    """The pid of the process that listens for a model."""
    [path] = [path for path in engine_sockets(neuron) if f'model_name="{model}"' in scrape(path)]
    listening = {
        line.split()[6]
        for line in Path("/proc/net/unix").read_text().splitlines()[1:]
        if line.endswith(f" {path}") and line.split()[5] == "01"
    }
    for pid in children(neuron.pid):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = str(descriptor.readlink())
            except OSError:
                continue  # closed meanwhile
            if target.removeprefix("socket:[").rstrip("]") in listening:
                return pid
    raise AssertionError(f"nobody listens at {path}")


def engine_core(neuron: NeuronProcess, model: str) -> int:
    """The pid of the process that computes for a model."""
    [pid] = _direct_children(engine_host(neuron, model))
    return pid


def _direct_children(pid: int) -> list[int]:
    return [child for child in children(pid) if pid == parent(child)]

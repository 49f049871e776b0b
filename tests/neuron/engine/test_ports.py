"""After a load nobody beyond this host can reach anything but the neuron's own port.

torch.distributed listens for its peers even where there are none; it does so on loopback alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.daemons import NeuronProcess
from tests.support.engines import needs_vllm
from tests.support.host import fleet
from tests.support.process import children
from tools.tinymodel.fleet import CHECKPOINT, MODELS, make_models

pytestmark = [pytest.mark.engine, needs_vllm]

LISTEN, UNCONNECTED = "0A", "07"  # of TCP, of UDP: include/net/tcp_states.h
LOOPBACK = ("tcp", "0100007F")  # 127.0.0.1, as proc(5) writes it
SOCKET = re.compile(r"socket:\[(\d+)\]")


def descriptors(pid: int) -> set[str]:
    """The socket inodes of a process."""
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            match = SOCKET.fullmatch(str(entry.readlink()))
        except OSError:
            continue  # closed meanwhile
        if match:
            found.add(match[1])
    return found


class Heard(NamedTuple):
    """An open port: whoever can reach the address is heard by the process."""

    protocol: str
    address: str
    port: int
    pid: int


def heard(pid: int) -> Iterator[Heard]:
    inodes = descriptors(pid)
    for protocol, state in {"tcp": LISTEN, "tcp6": LISTEN, "udp": UNCONNECTED, "udp6": UNCONNECTED}.items():
        for line in Path(f"/proc/net/{protocol}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == state and fields[9] in inodes:
                address, port = fields[1].rsplit(":", 1)
                yield Heard(protocol, address, int(port, 16), pid)


def load(neuron: NeuronProcess, model: str, **engine: object) -> None:
    profile = {"id": model, "vram_mb": 800, "engine": {"max_num_seqs": 4, **engine}}
    status, answer = neuron.post("/models/load", {"model": model, "profile": profile})
    assert status == 200, answer


def test_only_our_port_is_open_to_others_after_a_load(tmp_path: Path) -> None:
    make_models(CHECKPOINT, tmp_path)
    with fleet() as host:
        neuron = host.neuron("beast", engine="vllm", models_dir=tmp_path)
        neuron.until_engine()
        first, second, _ = MODELS
        load(neuron, first)
        load(neuron, second, tensor_parallel_size=2)
        engines = children(neuron.pid)
        assert len(engines) >= 6  # zygote, two hosts, two cores, two workers: all are looked at
        assert [one.port for one in heard(neuron.pid)] == [neuron.port]
        open_to_others = [one for pid in engines for one in heard(pid) if (one.protocol, one.address) != LOOPBACK]
        assert open_to_others == []

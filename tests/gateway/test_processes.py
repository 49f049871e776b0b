"""Several gateways on one port, as real processes: one ends, and nobody is refused."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cortex_core.config import Catalogue, ConfigError, CortexConfig
from cortex_core.config.cortex import Gateway, Tls
from cortex_core.http import address_of, bind
from cortex_gateway.serving.life import Life
from cortex_gateway.serving.processes import serve_processes
from tests.support.chat import Answer, Chat, chatting
from tests.support.daemons import START_S, GatewayProcess, NeuronProcess
from tests.support.host import Host, fleet
from tests.support.process import alive, children, environment
from tests.support.until import eventually, until, until_async

PROCESSES = 2
REQUESTS = "cortex_requests_total"


class Systemd:
    """Keeps what it is told."""

    def __init__(self, path: Path) -> None:
        self.environ = {"NOTIFY_SOCKET": str(path)}
        self._told = b""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(str(path))

    def told(self) -> bytes:
        """All lines so far."""
        while True:
            try:
                self._told += self._socket.recv(1000) + b"\n"
            except BlockingIOError:
                return self._told

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def systemd(host: Host) -> Iterator[Systemd]:
    with closing(Systemd(host.folder / f"notify-{len(host.processes)}")) as systemd:
        yield systemd


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with fleet() as host:
        yield host


@pytest.fixture(scope="module")
def neuron(host: Host) -> NeuronProcess:
    neuron = host.neuron("beast", sim={"load_s": 0.1, "first_token_s": 0.02, "tokens_per_s": 50.0})
    neuron.until_engine()
    return neuron


def start(host: Host, neuron: NeuronProcess, name: str, processes: int = PROCESSES, **options: Any) -> GatewayProcess:
    """A gateway of so many processes, all of which serve."""
    arguments = ["--processes", str(processes)]
    gateway = host.gateway([neuron], [{"id": "tiny", "vram_mb": 500}], name=name, arguments=arguments, **options)
    until(lambda: '"message":"serving ' in gateway.log, what="all serve")
    assert len(serving(gateway)) == (processes if processes > 1 else 0)
    return gateway


def serving(gateway: GatewayProcess) -> list[int]:
    """The processes of the gateways, beside their parent."""
    return children(gateway.pid)


@pytest.fixture(scope="module")
def gateway(host: Host, neuron: NeuronProcess) -> GatewayProcess:
    return start(host, neuron, "shared")


@pytest.fixture
async def chat(gateway: GatewayProcess) -> AsyncIterator[Chat]:
    async with chatting(gateway.url) as chat:
        yield chat


async def ask(chat: Chat, count: int, **body: Any) -> list[Answer]:
    """So many questions at once, each over a connection of its own."""
    async with asyncio.TaskGroup() as group:
        asking = [group.create_task(chat.ask("tiny", **body)) for _ in range(count)]
    return [one.result() for one in asking]


def gateways(answers: list[Answer]) -> set[str]:
    """The ids of the gateways that gave these answers."""
    return {answer.headers["x-request-id"][len("req_") : -8] for answer in answers}


async def test_both_serve_and_their_metrics_are_one(gateway: GatewayProcess, chat: Chat) -> None:
    names = [REQUESTS, "cortex_completion_tokens_total", "cortex_request_duration_seconds_count"]

    def counted() -> list[float]:
        return [gateway.metric(name, model="tiny") for name in names]

    before = counted()
    answers = await ask(chat, 24, max_tokens=2)
    assert all(answer.clean for answer in answers)
    assert len(gateways(answers)) == PROCESSES
    expected = [count + more for count, more in zip(before, [24, 48, 24], strict=True)]
    await eventually(lambda: counted() == expected, what="all counted")
    assert gateway.metric("cortex_neuron_up", neuron="beast") == 1
    assert gateway.metric("cortex_build_info") == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "told to end"])
async def test_one_ends_and_nobody_is_refused(gateway: GatewayProcess, chat: Chat, number: signal.Signals) -> None:
    counted = gateway.metric(REQUESTS, model="tiny")
    before = await ask(chat, 12, max_tokens=1)
    await eventually(lambda: gateway.metric(REQUESTS, model="tiny") == counted + 12, what="all counted")
    first, second = serving(gateway)
    os.kill(first, number)
    answers = await ask(chat, 24, max_tokens=1)
    assert all(answer.clean for answer in answers)
    await eventually(lambda: len(set(serving(gateway)) - {first, second}) == 1, what="a replacement")
    await eventually(lambda: not alive(first), what="the end of the first")
    again = await ask(chat, 24, max_tokens=1)
    assert all(answer.clean for answer in again)
    assert len(gateways(again)) == PROCESSES
    assert gateways(again) != gateways(before)
    await eventually(lambda: gateway.metric(REQUESTS, model="tiny") == counted + 60, what="counts of the dead as well")


async def test_goal_R40_a_stop_lets_the_answers_of_both_end(
    host: Host, neuron: NeuronProcess, systemd: Systemd
) -> None:
    gateway = start(host, neuron, "stopped", environ=systemd.environ)
    await eventually(lambda: b"STATUS=2 processes serve" in systemd.told(), what="its state")
    async with chatting(gateway.url) as chat:
        await ask(chat, 1, max_tokens=1)
        asking = asyncio.get_running_loop().create_task(ask(chat, 12, max_tokens=40))
        await eventually(lambda: sum(one["in_flight"] for one in neuron.replicas("tiny")) == 12, what="12 under way")
        processes = serving(gateway)
        gateway.signal(signal.SIGTERM)
        answers = await asking
    assert all(answer.clean for answer in answers)
    assert len(gateways(answers)) == PROCESSES
    assert await asyncio.to_thread(gateway.wait) == 0
    assert not any(map(alive, processes))
    assert "Traceback" not in gateway.log
    assert [systemd.told().count(word) for word in (b"READY=1\n", b"STOPPING=1\n")] == [1, 1]


def test_a_second_signal_does_not_wait(host: Host, neuron: NeuronProcess) -> None:
    gateway = start(host, neuron, "urged")
    processes = serving(gateway)
    for process in processes:
        os.kill(process, signal.SIGSTOP)  # no drain ends
    gateway.signal(signal.SIGTERM)
    until(lambda: '"message":"stopping' in gateway.log)
    gateway.signal(signal.SIGTERM)
    assert gateway.wait() == -signal.SIGTERM
    until(lambda: not any(map(alive, processes)), what="their end")


def test_children_do_not_outlive_their_parent(host: Host, neuron: NeuronProcess) -> None:
    gateway = start(host, neuron, "killed")
    processes = serving(gateway)
    os.kill(gateway.pid, signal.SIGKILL)
    until(lambda: not any(map(alive, processes)), what="their end")


def test_a_single_one_tells_systemd_of_its_neurons(host: Host, neuron: NeuronProcess, systemd: Systemd) -> None:
    gateway = start(host, neuron, "single", processes=1, environ=systemd.environ)
    until(lambda: b"STATUS=1 of 1 neurons up, 0 requests" in systemd.told(), what="its state")
    assert gateway.stop() == 0
    assert [systemd.told().count(word) for word in (b"READY=1\n", b"STOPPING=1\n")] == [1, 1]


class Told(Life):
    def __init__(self) -> None:
        super().__init__()
        self.addresses: tuple[str, str] | None = None

    def started(self, address: str, metrics: str) -> None:
        self.addresses = address, metrics


async def test_what_cannot_be_started_now_is_started_as_soon_as_it_can(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    python, life = sys.executable, Told()
    config = CortexConfig(gateway=Gateway(listen="127.0.0.1:0", metrics_listen="127.0.0.1:0", processes=2, drain_s=0.0))
    monkeypatch.setattr(sys, "executable", "/nonexistent")
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(serve_processes(config, Catalogue(), life))
        await until_async(lambda: caplog.text.count("no gateway process can be started") >= 2)
        monkeypatch.setattr(sys, "executable", python)
        await until_async(lambda: life.addresses, timeout_s=START_S)
        life.stop.set()


async def test_addresses_and_certificates_are_the_parents_to_judge() -> None:
    with bind("127.0.0.1:0") as taken:
        config = CortexConfig(gateway=Gateway(listen=address_of(taken), processes=2))
        with pytest.raises(OSError, match="cannot listen on"):
            await serve_processes(config, Catalogue(), Life())
    config = CortexConfig(gateway=Gateway(processes=2), tls=Tls(certificate="/none", key="/none"))
    with pytest.raises(ConfigError, match="/none"):
        await serve_processes(config, Catalogue(), Life())

"""The daemon as a process: its command line, its start, its end, and who is let in."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cortex_core.config.neuron import NeuronConfig
from neuron.hardware.owners import Owners
from neuron.supervisor.refusals import Refused
from tests.support.daemons import NeuronProcess
from tests.support.engines import needs_vllm
from tests.support.host import Host, fleet
from tests.support.ports import free_port
from tests.support.process import entry_point, environment, rss_mb
from tests.support.until import until

TOKEN = "s3cret"


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with fleet() as one:
        yield one


def call(
    neuron: NeuronProcess, method: str, path: str, body: object = None, **headers: str
) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", neuron.port, timeout=20)
    try:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = entry_point("neuron.main", *arguments)
    return subprocess.run(command, capture_output=True, text=True, timeout=30, env=environment(environ), check=False)


def test_version_is_one_line() -> None:
    done = run("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("neuron ")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[neuron]\nlisten = 3\n", "[neuron] listen"),
        ("[neuron]\nlistn = 'x'\n", "did you mean `listen`?"),
        ("[engine]\nkind = 'cuda'\n", "[engine] kind"),
        ("[neuron]\nlisten = '0.0.0.0:1'\n", "open to others without a token"),
        ("[neuron\n", "is not TOML"),
        ("[neuron]\ntoken_file = 'nowhere'\n", "token_file"),
    ],
)
def test_a_broken_config_is_told_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "neuron.toml"
    path.write_text(text)
    done = run("--config", str(path))
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert str(path) in done.stderr
    assert words in done.stderr


def test_an_address_that_is_taken_is_told_in_one_line(host: Host, tmp_path: Path) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        path = tmp_path / "neuron.toml"
        path.write_text(f"[neuron]\nlisten = '127.0.0.1:{port}'\nstate_dir = 's'\nrun_dir = '/tmp/cx-{port}'\n")
        done = run("--config", str(path))
    Path(f"/tmp/cx-{port}").rmdir()
    assert done.returncode == 3
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_it_answers_soon_after_its_start_and_is_small(host: Host) -> None:
    began = time.monotonic()
    neuron = host.neuron("quick")
    assert time.monotonic() - began < 5  # 1 s on an idle machine
    health = neuron.get("/health")
    assert health["status"] == "ok"
    assert health["uptime_s"] < 5
    assert rss_mb(neuron.pid) < 60
    assert health["rss_mb"] == pytest.approx(rss_mb(neuron.pid), abs=3)
    assert health["engines"][0]["simulated"]
    logged = [json.loads(line) for line in neuron.log.splitlines()]
    assert logged[0]["level"] == "info"
    assert "simulated engine" in logged[0]["message"]


def test_the_token_is_wanted_for_all_but_the_least(tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    token_file.write_text(f"{TOKEN}\n")
    with fleet() as one:
        neuron = one.neuron("locked", neuron_table={"token_file": str(token_file)})
        assert call(neuron, "GET", "/version")[0] == 200
        status, health = call(neuron, "GET", "/health")
        assert (status, health["engines"], health["devices"], health["replicas"]) == (200, [], [], [])
        for method, path in [
            ("GET", "/models"),
            ("GET", "/discovery"),
            ("GET", "/events"),
            ("GET", "/metrics"),
            ("POST", "/models/load"),
            ("POST", "/v1/chat/completions"),
        ]:
            for given in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {TOKEN}"}):
                status, body = call(neuron, method, path, **given)
                assert (status, body["error"]["code"]) == (401, "unauthorized"), path
                assert "token_file" in body["error"]["message"]
        right = {"authorization": f"bearer {TOKEN}"}
        assert call(neuron, "GET", "/models", **right)[0] == 200
        assert call(neuron, "GET", "/health", **right)[1]["devices"] != []
        assert TOKEN not in neuron.log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_requests_finish_and_takes_no_new_ones(host: Host, number: signal.Signals) -> None:
    neuron = host.neuron(f"draining-{number.name}", sim={"load_s": 0.05, "tokens_per_s": 40})
    assert call(neuron, "POST", "/models/load", {"model_id": "m"})[0] == 200
    answers: list[tuple[int, dict[str, Any]]] = []
    body = {"model": "m", "prompt": "x", "max_tokens": 40}
    asking = threading.Thread(target=lambda: answers.append(call(neuron, "POST", "/v1/completions", body)))
    asking.start()
    until(lambda: call(neuron, "GET", "/models")[1]["replicas"][0]["in_flight"] == 1)
    os.kill(neuron.pid, number)
    asking.join()
    assert answers[0][0] == 200
    assert answers[0][1]["usage"]["completion_tokens"] == 40
    assert neuron.wait() == 0
    assert list(neuron.run_dir.iterdir()) == []


def test_what_was_learned_and_pinned_is_there_after_a_kill(host: Host) -> None:
    neuron = host.neuron("learner", sim={"load_s": 0.05})
    before = neuron.get("/version")["instance_id"]
    call(neuron, "POST", "/models/load", {"model_id": "m"})
    call(neuron, "POST", "/models/pin", {"model": "m"})
    until(
        lambda: (neuron.state_dir / "state.json").is_file() and b'"m"' in (neuron.state_dir / "state.json").read_bytes()
    )
    neuron.kill()
    neuron.restart()
    report = neuron.get("/models")
    assert report["instance_id"] != before
    assert [known["model"] for known in report["known"]] == ["m"]
    assert report["pins"] == {"m": True}
    until(lambda: [r["state"] for r in neuron.get("/models")["replicas"]] == ["ready"], what="the pinned model again")


def test_without_an_engine_it_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [])  # where an engine would lie
    owners = Owners(NeuronConfig(), spawn=lambda work: work.close())
    assert "neuron[cuda]" in owners.problem
    owners.prepare(("cpu:0",))  # starts nothing
    [engine] = owners.describe()
    assert (engine.ready, engine.problem) == (False, owners.problem)


def test_a_neuron_without_an_engine_answers_all_the_same(short_path: Path) -> None:
    """Real, in a process that finds no engine: an import of it would fail, so none is made."""
    port = free_port()
    config = short_path / "neuron.toml"
    config.write_text(f"[neuron]\nlisten = '127.0.0.1:{port}'\nstate_dir = 's'\nrun_dir = 'r'\nmodels_dir = 'm'\n")
    hide = "from importlib import metadata; metadata.distributions = lambda **_: []"
    code = f"import sys; {hide}; from neuron.main import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "--config", str(config)]
    process = subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True)
    try:

        def answers() -> dict[str, Any] | None:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            try:
                connection.request("POST", "/models/load", json.dumps({"model_id": "m"}))
                found: dict[str, Any] = json.loads(connection.getresponse().read())
            except OSError:
                return None
            else:
                return found
            finally:
                connection.close()

        answer = until(answers)
        assert answer is not None
        assert answer["error"]["code"] == "engine_unavailable"
        assert "neuron[cpu]" in answer["error"]["message"]
    finally:
        process.terminate()
        process.communicate(timeout=20)


@needs_vllm
@pytest.mark.engine
def test_the_daemon_imports_nothing_that_computes() -> None:
    code = "import sys; from neuron import main, server; from neuron.hardware import devices; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, env=environment(), check=True
    )
    heavy = {"vllm", "torch", "numpy", "aiohttp", "transformers", "pynvml", "prometheus_client"}
    assert heavy & set(done.stdout.split()) == set()


def test_refusals_have_the_contracts_status_and_retry() -> None:
    refused = Refused("outrun", "it moved on", need_mb=3)
    assert (refused.status, refused.refusal.retry, refused.refusal.executed) == (409, "elsewhere", "no")
    assert Refused.of(refused.refusal).refusal is refused.refusal

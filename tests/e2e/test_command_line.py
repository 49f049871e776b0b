"""`cortex` as an operator runs it, against real processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cortex_core.gateway_api import FleetView
from tests.e2e.conftest import BEAST, BENJY, PROFILES, Cluster
from tests.support.host import fleet, write
from tests.support.ports import free_port
from tests.support.process import Process, entry_point, environment
from tests.support.until import until


def cortex(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        entry_point("cortex_cli.main", *arguments),
        env=environment(environ),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_status_shows_the_whole_fleet_and_calls_it_simulated(sim: Cluster) -> None:
    sim.empty()
    sim.load(sim.beast, BEAST)
    ran = cortex("status", CORTEX_URL=sim.gateway.url)
    assert (ran.returncode, ran.stderr) == (0, "")
    for name in ("beast", "benjy", "cpu:0", *(profile["id"] for profile in PROFILES)):
        assert name in ran.stdout
    [line] = [line for line in ran.stdout.splitlines() if line.startswith(f"{BEAST} ")]
    assert "ready, simulated" in line
    [line] = [line for line in ran.stdout.splitlines() if line.startswith(f"{BENJY} ")]
    assert "unloaded; fits on beast, benjy" in line


def test_json_is_the_apis_struct(sim: Cluster) -> None:
    sim.load(sim.beast, BEAST)
    ran = cortex("status", "--json", "--gateway", sim.gateway.url)
    view = msgspec.json.decode(ran.stdout, type=FleetView)
    assert [neuron.name for neuron in view.neurons] == ["beast", "benjy"]
    assert json.loads(ran.stdout).keys() == sim.gateway.fleet().keys()


def test_ps_and_ls_tell_loaded_from_loadable(sim: Cluster) -> None:
    sim.empty()
    sim.load(sim.beast, BEAST)
    loaded, known = cortex("ps", CORTEX_URL=sim.gateway.url), cortex("ls", CORTEX_URL=sim.gateway.url)
    assert BEAST in loaded.stdout
    assert BENJY not in loaded.stdout
    assert all(profile["id"] in known.stdout for profile in PROFILES)


def test_a_neuron_that_is_gone_is_shown_as_down(tmp_path: Path) -> None:
    with fleet() as host:
        neuron = host.neuron("beast")
        gateway = host.gateway([neuron], [{"id": BEAST}])
        neuron.kill()
        until(lambda: "down" in cortex("status", CORTEX_URL=gateway.url).stdout, timeout_s=20, what="beast down")
        assert cortex("status", CORTEX_URL=gateway.url).returncode == 0, "the gateway is there, and says so"


def test_ps_is_quick(sim: Cluster) -> None:
    """250 ms on an idle machine. Counted in the processor's time, which others at work here lengthen less."""
    took = []
    for _ in range(3):
        before = os.times()
        assert cortex("ps", CORTEX_URL=sim.gateway.url).returncode == 0
        after = os.times()
        took.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert min(took) < 0.25


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "gateway": ({"gateway": {"lisen": "127.0.0.1:1"}}, "[gateway] lisen: unknown key; did you mean `listen`?"),
    "neuron": ({"neuron": {"modelsdir": "/m"}}, "[neuron] modelsdir: unknown key; did you mean `models_dir`?"),
}


@pytest.mark.parametrize("which", BROKEN)
def test_a_broken_file_ends_the_daemon_with_3_and_one_line(which: str, tmp_path: Path) -> None:
    values, says = BROKEN[which]
    config = write(tmp_path / f"{which}.toml", values)
    module, arguments = ("cortex_cli.main", ["serve"]) if which == "gateway" else ("neuron.main", [])
    ran = subprocess.run(
        entry_point(module, *arguments, "--config", str(config)),
        env=environment(), capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert ran.returncode == 3
    assert ran.stderr.strip().endswith(f"{config}: {says}")
    assert len(ran.stderr.splitlines()) == 1


def test_a_port_that_is_taken_ends_serve_with_one_line(sim: Cluster, tmp_path: Path) -> None:
    listen = {"listen": f"127.0.0.1:{sim.gateway.port}", "metrics_listen": f"127.0.0.1:{free_port()}"}
    config = write(tmp_path / "cortex.toml", {"gateway": listen})
    ran = cortex("serve", "--config", str(config))
    assert ran.returncode == 1
    assert str(sim.gateway.port) in ran.stderr
    assert "Traceback" not in ran.stderr


def test_serve_ends_on_sigterm(tmp_path: Path) -> None:
    with fleet() as host:
        neuron = host.neuron("beast")
        gateway = host.gateway([neuron], [{"id": BEAST}])
        assert gateway.stop() == 0
        assert "Traceback" not in gateway.log


def test_the_module_runs_as_the_script_does() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "cortex_cli", "--help"], env=environment(), capture_output=True, text=True, timeout=30,
        check=True,
    )  # fmt: skip
    assert ran.stdout.startswith("Usage: cortex")


def test_an_interrupted_command_ends_with_130(tmp_path: Path) -> None:
    """Against a gateway that never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        asking = Process("cortex", entry_point("cortex_cli.main", "ps", "--gateway", url), tmp_path / "log")
        asking.start()
        try:
            silent.settimeout(10)
            connection, _ = silent.accept()
            with connection:
                asking.signal(signal.SIGINT)
                assert asking.wait() == 130
        finally:
            asking.end()

"""Socket activation: a gateway that systemd starts listens where systemd does already."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
from pathlib import Path

import pytest

from cortex_cli.serve import activated
from cortex_core.config import CortexConfig
from tests.support.process import entry_point, environment
from tests.support.until import until

PASS = 'LISTEN_PID=$$ LISTEN_FDS=2 exec "$@" 3<&"$CLIENTS" 4<&"$METRICS"'


def test_a_request_that_came_first_is_answered(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as clients, socket.create_server(("127.0.0.1", 0)) as metrics:
        waiting = http.client.HTTPConnection("127.0.0.1", clients.getsockname()[1], timeout=20)
        waiting.request("GET", "/")
        fds = clients.fileno(), metrics.fileno()
        (tmp_path / "cortex.toml").write_text("")
        serve = entry_point("cortex_cli.main", "serve", "--config", str(tmp_path / "cortex.toml"))
        command = ["bash", "-c", PASS, "bash", *serve]
        env = environment({"CLIENTS": str(fds[0]), "METRICS": str(fds[1])})
        with (tmp_path / "log").open("wb") as log:
            gateway = subprocess.Popen(command, pass_fds=fds, env=env, stdout=log, stderr=log)
        try:
            assert waiting.getresponse().status == 200
            asked = http.client.HTTPConnection("127.0.0.1", metrics.getsockname()[1], timeout=20)
            asked.request("GET", "/metrics")
            assert b"cortex_build_info" in asked.getresponse().read()
        finally:
            waiting.close()
            asked.close()
            gateway.terminate()
            until(lambda: gateway.poll() is not None, timeout_s=20, what="the gateway's end")


@pytest.mark.parametrize("environ", [{}, {"LISTEN_PID": "1", "LISTEN_FDS": "2"}])
def test_what_was_passed_to_somebody_else_is_not_ours(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert activated(CortexConfig()) == CortexConfig()


def test_one_socket_alone_is_the_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "1")
    gateway = activated(CortexConfig()).gateway
    assert (gateway.listen, gateway.metrics_listen) == ("fd:3", "127.0.0.1:31314")

"""The units' own command lines, run as systemd would: their user, their environment, a socket to notify."""

from __future__ import annotations

import http.client
import json
import os
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools.rpm.root import Root
from tools.rpm.steps import Failed

READY_S, STOP_S = 30.0, 20.0


def unit(root: Root, name: str) -> dict[str, str]:
    """Keys of a unit that stand once; the last one counts."""
    text = (root.path / f"usr/lib/systemd/system/{name}").read_text()
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))


class Service:
    """One unit's ExecStartPre and ExecStart."""

    def __init__(self, root: Root, name: str, env: Mapping[str, str] | None = None) -> None:
        self._root, self._unit, self.name = root, unit(root, f"{name}.service"), name
        self._env = dict(env or {})
        self._user = self._unit["User"]
        self.log = root.path / f"tmp/{name}.log"
        self.told: dict[str, str] = {}
        self._notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Returns the seconds until it told READY=1."""
        began = time.monotonic()
        for folder in ("RuntimeDirectory", "StateDirectory"):
            if name := self._unit.get(folder):
                below = {"RuntimeDirectory": "run", "StateDirectory": "var/lib"}[folder]
                mode = self._unit.get(f"{folder}Mode", "0755")
                self._root.run("install", "-d", "-o", self._user, "-g", self._user, "-m", mode, f"/{below}/{name}")
        address = self._root.path / f"tmp/{self.name}.notify"
        address.unlink(missing_ok=True)  # of an earlier start
        self._notified.bind(str(address))
        address.chmod(0o666)
        env = {"NOTIFY_SOCKET": f"/tmp/{self.name}.notify", **self._env}
        check = self._root.start(shlex.split(self._unit["ExecStartPre"]), self._user, self._env, self.log)
        if check.wait(READY_S):
            raise Failed(f"{self.name}: ExecStartPre ended with {check.returncode}: {self.log.read_text()}")
        self._process = self._root.start(shlex.split(self._unit["ExecStart"]), self._user, env, self.log)
        self.until("READY", "1")
        return time.monotonic() - began

    def until(self, key: str, has: str, timeout_s: float = READY_S) -> str:
        """Wait until it has told systemd this; returns the whole value."""
        deadline = time.monotonic() + timeout_s
        while has not in self.told.get(key, ""):
            self._notified.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                told = self._notified.recv(4096).decode()
            except TimeoutError:
                last = self.log.read_text()[-2000:]
                raise Failed(f"{self.name} did not tell {key}={has} in {timeout_s:.0f} s: {self.told} {last}") from None
            self.told |= dict(line.split("=", 1) for line in told.splitlines())
        return self.told[key]

    def stop(self) -> int:
        """SIGTERM, as systemd; its exit code. Everything of it is gone afterwards."""
        if self._process is None:
            return 0
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            raise Failed(f"{self.name} did not end in {STOP_S:.0f} s") from None
        finally:
            self.kill()

    def kill(self) -> None:
        if self._process is not None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self._process.wait()
        self._notified.close()


def ask(port: int, path: str, body: Any = None, timeout_s: float = 30.0) -> tuple[int, Any]:
    """Status and JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        headers = {"content-type": "application/json"}
        connection.request("GET" if body is None else "POST", path, body and json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def sockets(path: Path) -> list[str]:
    """What a socket unit listens on."""
    return [line.partition("=")[2] for line in path.read_text().splitlines() if line.startswith("ListenStream=")]

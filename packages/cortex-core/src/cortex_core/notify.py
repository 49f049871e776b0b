"""What systemd is told, sd_notify(3): READY, STATUS, WATCHDOG, STOPPING. Without systemd it is nothing."""

from __future__ import annotations

import os
import socket


class Notifier:
    def __init__(self, address: str | None = None) -> None:
        self._address = address if address is not None else os.environ.get("NOTIFY_SOCKET", "")
        self._status = ""

    def ready(self) -> None:
        self._send("READY=1")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def alive(self, status: str) -> None:
        """The loop turns: feed the watchdog, and tell the status when it has changed."""
        told, self._status = self._status, status
        self._send("WATCHDOG=1" if status == told else f"WATCHDOG=1\nSTATUS={status}")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as out:
            try:
                out.sendto(text.encode(), address)
            except OSError:  # systemd is being restarted, or does not read: the next tick tells it again
                self._status = ""

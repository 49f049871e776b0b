"""Network namespaces on one switch, whose cables can be pulled: partitions as the kernel makes them, packets vanish.

    with network("beast", "benjy") as hosts:
        host.neuron("beast", place=hosts["beast"])
        hosts["beast"].unplug()

Needs root and iproute2. The switch is a namespace too; the only thing outside is a cable from it to this process.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

NET = "198.18.77"  # of the range for tests, RFC 2544
OURS = 254


def why_not() -> str:
    """Why there can be no namespaces here; empty: there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need iproute2"
    probe = f"cx{os.getpid()}-probe"
    if subprocess.run(["ip", "netns", "add", probe], capture_output=True, check=False).returncode:
        return "network namespaces are not allowed here"
    ip("netns", "del", probe)
    return ""


def ip(*arguments: str) -> None:
    ran = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, f"ip {' '.join(arguments)}: {ran.stderr}"


class Site:
    """A namespace with one cable to the switch."""

    def __init__(self, namespace: str, switch: str, number: int) -> None:
        self.address = f"{NET}.{number}"
        self._namespace = namespace
        self._switch = switch
        self._cable = f"c{number}"

    @property
    def enter(self) -> Sequence[str]:
        return ("ip", "netns", "exec", self._namespace)

    def unplug(self) -> None:
        """Whatever is sent to it or by it vanishes; nobody is told."""
        ip("-n", self._switch, "link", "set", self._cable, "nomaster")

    def plug(self) -> None:
        ip("-n", self._switch, "link", "set", self._cable, "master", "switch")


@contextmanager
def network(*names: str) -> Iterator[dict[str, Site]]:
    """Places of these names, which reach one another and this process."""
    prefix = f"cx{os.getpid()}"
    switch, outside = f"{prefix}-switch", f"{prefix}o"
    namespaces = [switch, *(f"{prefix}-{name}" for name in names)]
    try:
        for namespace in namespaces:
            ip("netns", "add", namespace)
        ip("-n", switch, "link", "add", "switch", "type", "bridge")
        ip("-n", switch, "link", "set", "switch", "up")
        sites = {}
        for number, name in enumerate(names, 1):
            sites[name] = Site(f"{prefix}-{name}", switch, number)
            ip(
                "-n",
                switch,
                "link",
                "add",
                f"c{number}",
                "type",
                "veth",
                "peer",
                "name",
                "eth0",
                "netns",
                f"{prefix}-{name}",
            )
            _up(switch, f"c{number}")
            ip("-n", f"{prefix}-{name}", "addr", "add", f"{NET}.{number}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                ip("-n", f"{prefix}-{name}", "link", "set", device, "up")
        ip("link", "add", outside, "type", "veth", "peer", "name", "ours", "netns", switch)
        _up(switch, "ours")
        ip("addr", "add", f"{NET}.{OURS}/24", "dev", outside)
        ip("link", "set", outside, "up")
        yield sites
    finally:
        for namespace in reversed(namespaces):
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True, check=False)  # cables go with it


def _up(switch: str, cable: str) -> None:
    ip("-n", switch, "link", "set", cable, "master", "switch")
    ip("-n", switch, "link", "set", cable, "up")

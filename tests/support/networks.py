"""Network namespaces on one switch, whose cables can be pulled: partitions as the kernel makes them, packets vanish.

    with network("beast", "benjy") as hosts:
        host.neuron("beast", place=hosts["beast"])
        hosts["beast"].unplug()

Needs root and iproute2. The switch is a namespace too; the only thing outside is a cable from it to this process. What
a killed run left behind goes with the next.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

NETS = 256  # 198.18.0.0/16, of the range for tests: RFC 2544
OURS = 254
PREFIX = "cx"  # and a pid


def why_not() -> str:
    """Why there can be no namespaces here; empty: there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need iproute2"
    probe = f"{PREFIX}{os.getpid()}-probe"
    if subprocess.run(["ip", "netns", "add", probe], capture_output=True, check=False).returncode:
        return "network namespaces are not allowed here"
    ip("netns", "del", probe)
    return ""


def _drop(*arguments: str) -> None:
    """Delete something, whether it is there or not."""
    subprocess.run(["ip", *arguments], capture_output=True, check=False)


def ip(*arguments: str) -> None:
    ran = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, f"ip {' '.join(arguments)}: {ran.stderr}"


class Site:
    """A namespace with one cable to the switch."""

    def __init__(self, namespace: str, switch: str, net: str, number: int) -> None:
        self.address = f"{net}.{number}"
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
    _clean_up()
    prefix, net = f"{PREFIX}{os.getpid()}", _free_net()
    switch, outside = f"{prefix}-switch", f"{prefix}o"
    namespaces = [switch, *(f"{prefix}-{name}" for name in names)]
    try:
        for namespace in namespaces:
            ip("netns", "add", namespace)
        ip("-n", switch, "link", "add", "switch", "type", "bridge")
        ip("-n", switch, "link", "set", "switch", "up")
        sites = {}
        for number, name in enumerate(names, 1):
            sites[name] = Site(f"{prefix}-{name}", switch, net, number)
            _cable(switch, f"c{number}", f"{prefix}-{name}")
            ip("-n", f"{prefix}-{name}", "addr", "add", f"{net}.{number}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                ip("-n", f"{prefix}-{name}", "link", "set", device, "up")
        ip("link", "add", outside, "type", "veth", "peer", "name", "ours", "netns", switch)
        _up(switch, "ours")
        ip("addr", "add", f"{net}.{OURS}/24", "dev", outside)
        ip("link", "set", outside, "up")
        yield sites
    finally:
        # Cables go with their namespace, but only when the kernel comes to it: the next network wants this name now.
        _drop("link", "del", outside)
        for namespace in reversed(namespaces):
            _drop("netns", "del", namespace)


def _cable(switch: str, name: str, namespace: str) -> None:
    ip("-n", switch, *f"link add {name} type veth peer name eth0 netns {namespace}".split())
    _up(switch, name)


def _free_net() -> str:
    """The first three numbers of addresses that nobody here has: two runs at once must not share them."""
    taken = subprocess.run(["ip", "-o", "-4", "addr"], capture_output=True, text=True, check=True).stdout
    nets = (f"198.18.{(os.getpid() + step) % NETS}" for step in range(NETS))
    return next(net for net in nets if f"{net}." not in taken)


def _clean_up() -> None:
    """Namespaces of processes that are no more."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    for namespace in (line.split()[0] for line in listed.splitlines()):
        pid = namespace.removeprefix(PREFIX).partition("-")[0]
        if namespace.startswith(PREFIX) and pid.isdecimal() and not Path(f"/proc/{pid}").exists():
            _drop("netns", "del", namespace)


def _up(switch: str, cable: str) -> None:
    ip("-n", switch, "link", "set", cable, "master", "switch")
    ip("-n", switch, "link", "set", cable, "up")

"""What the packages give to systemd and firewalld agrees with the defaults. `nox -s rpm` runs them for real."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

from cortex_core.config import CortexConfig, NeuronConfig
from tests.support.imports import ROOT

RPM = ROOT / "rpm"
GATEWAY, NEURON = CortexConfig().gateway, NeuronConfig().neuron


def values(unit: str, key: str) -> list[str]:
    return re.findall(rf"(?m)^{key}=(.*)$", (RPM / unit).read_text())


@pytest.mark.parametrize(("unit", "user"), [("cortex.service", "cortex"), ("neuron.service", "neuron")])
def test_a_service_is_checked_watched_restarted_and_ends_whole(unit: str, user: str) -> None:
    assert values(unit, "Type") == ["notify"]
    assert values(unit, "User") == [user]
    assert values(unit, "KillMode") == ["mixed"]
    assert values(unit, "Restart") == ["on-failure"]
    assert values(unit, "RestartPreventExitStatus") == ["3"], "exit code 3: the configuration"
    (check,), (start,) = values(unit, "ExecStartPre"), values(unit, "ExecStart")
    assert "check" in check
    assert check.split()[0] == start.split()[0]


def test_a_service_has_longer_to_stop_than_requests_have_to_end() -> None:
    assert float(values("cortex.service", "TimeoutStopSec")[0]) > GATEWAY.drain_s
    assert float(values("neuron.service", "TimeoutStopSec")[0]) > NeuronConfig().engine.drain_s


def test_the_socket_has_the_default_addresses_in_the_order_in_which_they_are_taken() -> None:
    assert values("cortex.socket", "ListenStream") == [GATEWAY.listen, GATEWAY.metrics_listen]


def test_the_folders_are_the_services_own() -> None:
    assert (NEURON.state_dir, NEURON.run_dir) == ("/var/lib/neuron", "/run/neuron")
    assert values("neuron.service", "StateDirectory") == values("neuron.service", "RuntimeDirectory") == ["neuron"]
    assert f"d {NEURON.models_dir} " in (RPM / "neuron.tmpfiles").read_text()


@pytest.mark.parametrize(
    ("service", "addresses"),
    [("cortex", [GATEWAY.listen, GATEWAY.metrics_listen]), ("helexa-neuron", [NEURON.listen])],
)
def test_firewalld_knows_the_default_ports(service: str, addresses: list[str]) -> None:
    ports = [port.attrib["port"] for port in ET.parse(RPM / f"{service}.xml").getroot().findall("port")]
    assert ports == [address.rpartition(":")[2] for address in addresses]


@pytest.mark.parametrize("spec", ["cortex", "helexa-neuron"])
def test_a_spec_needs_no_network_and_keeps_edited_configurations(spec: str) -> None:
    text = (RPM / f"{spec}.spec").read_text()
    assert re.search(r"(?m)^Source1: +wheelhouse.tar$", text)
    assert "--no-index" in (RPM / "bundle.sh").read_text()
    configs = re.findall(r"(?m)^%config\S*.*\.toml$", text)
    assert configs
    assert all(line.startswith("%config(noreplace) %attr(0640, root, ") for line in configs)

"""The example configurations say what is true, and open nothing beyond loopback."""

from __future__ import annotations

import tomllib

import pytest

from cortex_core.config import load_cortex, load_models, load_neuron
from cortex_core.config.cortex import CortexConfig
from cortex_core.config.neuron import NeuronConfig
from cortex_core.config.values import is_loopback
from tests.support.imports import ROOT

RPM = ROOT / "rpm"


def test_all_three_load() -> None:
    cortex = load_cortex(RPM / "cortex.toml", {})
    catalogue, warnings = load_models(RPM / "models.toml")
    neuron = load_neuron(RPM / "neuron.toml", {})
    assert [entry.endpoint for entry in cortex.neurons] == [f"http://{neuron.neuron.listen}"]
    assert [profile.id for profile in catalogue.models] == ["Qwen/Qwen3-8B"]
    assert warnings == ()
    assert all(map(is_loopback, [cortex.gateway.listen, cortex.gateway.metrics_listen, neuron.neuron.listen]))


@pytest.mark.parametrize(("name", "defaults"), [("cortex", CortexConfig()), ("neuron", NeuronConfig())])
def test_the_values_shown_are_the_defaults(name: str, defaults: CortexConfig | NeuronConfig) -> None:
    shown = tomllib.loads((RPM / f"{name}.toml").read_text())
    tables = {table: values for table, values in shown.items() if isinstance(values, dict)}
    assert tables
    for table, values in tables.items():
        for key, value in values.items():
            default = getattr(getattr(defaults, table), key)
            assert (list(default) if isinstance(default, tuple) else default) == value, f"[{table}] {key}"

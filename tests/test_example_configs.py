"""The example configurations say what is true, and open nothing beyond loopback."""

from __future__ import annotations

import tomllib

import msgspec
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


# Set by the environment alone, or not for production.
NOT_SHOWN = {"token", "sim"}


@pytest.mark.parametrize(("name", "defaults"), [("cortex", CortexConfig()), ("neuron", NeuronConfig())])
def test_every_key_is_shown_with_its_default(name: str, defaults: CortexConfig | NeuronConfig) -> None:
    shown = {
        key: value
        for key, value in tomllib.loads((RPM / f"{name}.toml").read_text()).items()
        if isinstance(value, dict)
    }
    known = msgspec.to_builtins(defaults)
    tables = {key: value for key, value in known.items() if isinstance(value, dict)}
    assert shown == {table: without(values, NOT_SHOWN) for table, values in tables.items()}


def without(values: dict[str, object], keys: set[str]) -> dict[str, object]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items() if key not in keys}

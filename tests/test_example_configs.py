"""The packaged configurations say what is true, and open nothing beyond loopback."""

from __future__ import annotations

import pytest

from cortex_cli.first import cortex_toml, models_toml, neuron_toml
from cortex_core.config import Catalogue, load_cortex, load_models, load_neuron
from cortex_core.config.values import is_loopback
from tests.support.examples import in_full
from tests.support.imports import ROOT

RPM = ROOT / "rpm"


def test_all_three_load() -> None:
    cortex = load_cortex(RPM / "cortex.toml", {})
    neuron = load_neuron(RPM / "neuron.toml", {})
    assert [entry.endpoint for entry in cortex.neurons] == [f"http://{neuron.neuron.listen}"]
    assert cortex.models_config == str(RPM / "models.toml")
    assert load_models(RPM / "models.toml") == (Catalogue(), ()), "the models are what the neurons have"
    assert all(map(is_loopback, [cortex.gateway.listen, cortex.gateway.metrics_listen, neuron.neuron.listen]))


@pytest.mark.parametrize(
    ("name", "text"), [("cortex", cortex_toml()), ("models", models_toml()), ("neuron", neuron_toml())]
)
def test_they_are_what_init_writes(name: str, text: str) -> None:
    """Every key with its default and its meaning. `nox -s reference` writes them anew."""
    assert (RPM / f"{name}.toml").read_text() == text


def test_what_is_shown_as_a_comment_holds_too(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("shown") / "models.toml"
    path.write_text(in_full(models_toml()))
    catalogue, warnings = load_models(path)
    assert [model.id for model in catalogue.models] == ["Qwen/Qwen3-8B"]
    assert warnings == ()

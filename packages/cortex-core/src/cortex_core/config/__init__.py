"""The three files and the environment over them, as strict frozen values."""

from cortex_core.config.cortex import CortexConfig, load_cortex
from cortex_core.config.loader import ConfigError
from cortex_core.config.models import Catalogue, load_models
from cortex_core.config.neuron import NeuronConfig, load_neuron

__all__ = [
    "Catalogue",
    "ConfigError",
    "CortexConfig",
    "NeuronConfig",
    "load_cortex",
    "load_models",
    "load_neuron",
]

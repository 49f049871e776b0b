"""Which build this is."""

from __future__ import annotations

from importlib import metadata


def build() -> str:
    """The installed distribution's version. A bare checkout has none, and `neuron` on PyPI is somebody else's."""
    try:
        return metadata.version("cortex-core")
    except metadata.PackageNotFoundError:
        return "checkout"

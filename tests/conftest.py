"""What every test may ask for."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is slow, not wrong. A plain run draws the same examples each time, so that a change is what fails it;
# EXPLORE=1 draws new ones and prints how to repeat a failure.
settings.register_profile(
    "cortex",
    deadline=None,
    derandomize=not os.environ.get("EXPLORE"),
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
    max_examples=100,
)
settings.load_profile("cortex")

# What is started in the background is told to ignore Ctrl-C, and would tell the programs under test the same.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """What configures the developer's own cortex does not configure a test's."""
    for name in list(os.environ):
        if name.startswith(("CORTEX_", "NEURON_")):
            monkeypatch.delenv(name)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder whose name leaves room for a unix socket's path, which ends at 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="cx-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)

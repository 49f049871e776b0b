"""One page of figures for all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.figures import Figures


@pytest.fixture(scope="session")
def figures() -> Iterator[Figures]:
    taken = Figures(Path(__file__).with_name("RESULTS.md"))
    yield taken
    taken.write()

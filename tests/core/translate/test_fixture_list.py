"""Every tricky input of the catalogue (protocol 8) is a test, `fixture_NN` in its name."""

from __future__ import annotations

import re

from tests.support.imports import ROOT

FIXTURES = range(1, 51)
_TEST = re.compile(r"^ *(?:async )?def test_\w*?fixture_(\d\d)", re.MULTILINE)


def test_every_fixture_is_a_test() -> None:
    sources = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py")]
    named = {int(number) for source in sources for number in _TEST.findall(source)}
    assert set(FIXTURES) - named == set()

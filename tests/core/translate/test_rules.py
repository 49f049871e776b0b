"""Every rule of the catalogue has a test that carries its id, as `rule_A_05`."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from tests.support.imports import ROOT

RULES = Path(__file__).with_name("rules.txt").read_text().split()
_TEST = re.compile(r"^ *(?:async )?def (test_\w*rule_\w+)", re.MULTILINE)
_ID = re.compile(r"(?:rule_|(?<=_))([A-Z])_(\d\d)(?![^\W_])")


@cache
def carried() -> frozenset[str]:
    sources = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py")]
    names = [name for source in sources for name in _TEST.findall(source)]
    return frozenset(f"{letter}-{number}" for name in names for letter, number in _ID.findall(name))


def test_every_rule_has_a_test() -> None:
    assert [rule for rule in RULES if rule not in carried()] == []


def test_no_test_names_a_rule_that_is_none() -> None:
    assert carried() - set(RULES) == set()

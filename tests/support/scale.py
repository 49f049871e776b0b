"""How much of a thing a test does: little in every run, much in `nox -s chaos`."""

from __future__ import annotations

import os

CHAOS = os.environ.get("CHAOS") == "1"


def scaled(short: int, long: int) -> int:
    return long if CHAOS else short

"""The packaged configurations, with what they show as a comment made real."""

from __future__ import annotations

import re


def in_full(text: str) -> str:
    return re.sub(r"(?m)^# (?=\w+ = |\[)", "", text)

"""Server-sent events as the strictest client reads them: Zed, line by line."""

from __future__ import annotations

import json
from typing import Any


def events(stream: bytes, *, named: bool) -> list[tuple[str, Any]]:
    """(name, data) of each event. `named`: every event has an `event:` line, else none has (protocol H-05)."""
    assert b"\r" not in stream
    assert not stream or stream.endswith(b"\n\n"), "the last event is not whole"
    found = []
    for block in stream.decode().split("\n\n")[:-1]:
        lines = [line for line in block.split("\n") if not line.startswith(":")]
        if not lines:
            continue
        assert len(lines) == (2 if named else 1), f"lines of one event: {lines}"
        name = ""
        if named:
            assert lines[0].startswith("event: "), lines[0]
            name = lines[0].removeprefix("event: ")
        assert lines[-1].startswith("data: "), lines[-1]
        text = lines[-1].removeprefix("data: ")
        found.append((name, text if text == "[DONE]" else json.loads(text)))
    return found

"""The command line is quick because it imports little: the rest comes when a command needs it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.process import environment

HEAVY = ("asyncio", "aiohttp", "starlette", "hypercorn", "cortex_gateway", "http.client", "ssl", "tomllib", "socket")


def modules_after(*arguments: str) -> set[str]:
    """What a fresh interpreter has imported after one command."""
    program = (
        "import sys; from cortex_cli.main import main; code = main(sys.argv[1:]);"
        "print(*sys.modules, file=sys.stderr); sys.exit(code)"
    )
    command = [sys.executable, "-c", program, *arguments]
    ran = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True, timeout=30)
    return set(ran.stderr.split())


@pytest.mark.parametrize("arguments", [["--help"], ["ps", "--help"], ["serve", "--help"]])
def test_help_imports_click_and_msgspec_and_nothing_that_takes_its_time(arguments: list[str]) -> None:
    imported = modules_after(*arguments)
    assert {"click", "msgspec"} <= imported
    assert not imported & set(HEAVY)

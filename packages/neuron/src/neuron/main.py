"""`neuron --config FILE`: the daemon's command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cortex_core.config import ConfigError, load_neuron
from cortex_core.logs import set_up_logs
from neuron.build import build

DEFAULT_CONFIG = Path("/etc/neuron/neuron.toml")
CONFIG_ERROR = 3  # exit code; a service manager must not restart what cannot start


def parser() -> argparse.ArgumentParser:
    """Also what the manual page is made from."""
    made = argparse.ArgumentParser(
        prog="neuron",
        description="The daemon of one GPU host in a cortex fleet. It loads and unloads models and runs vLLM in "
        "processes of its own.",
        epilog="Exit codes: 0 ended, 3 configuration invalid or an address or folder that cannot be used.",
    )
    made.add_argument("--config", type=Path, help=f"neuron.toml (default: {DEFAULT_CONFIG} if it is there)")
    made.add_argument("--check", action="store_true", help="say whether the configuration can be used, and end")
    made.add_argument("--version", action="version", version=f"neuron {build()}")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    path = options.config or (DEFAULT_CONFIG if DEFAULT_CONFIG.is_file() else None)
    try:
        config = load_neuron(path)
    except ConfigError as error:
        sys.stderr.write(f"neuron: {error}\n")
        return CONFIG_ERROR
    if options.check:
        sys.stdout.write(f"{path or 'no file'}: fine, {config.engine.kind} engines on {config.neuron.listen}\n")
        return 0
    set_up_logs()
    from neuron.server import run

    try:
        run(config)
    except OSError as error:  # the address is taken, a folder cannot be made
        sys.stderr.write(f"neuron: {error}\n")
        return CONFIG_ERROR
    return 0


if __name__ == "__main__":
    sys.exit(main())

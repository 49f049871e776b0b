"""The command line of tools/run.py."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from types import FrameType

from tools.runner import checks, demo
from tools.runner.demo_fleet import Ports
from tools.runner.environment import ENGINE, SIM, Unavailable, ready
from tools.runner.report import say

PORTS = {"gateway": 31313, "metrics": 31314, "beast": 13131, "benjy": 13132}


def main(arguments: list[str]) -> int:
    options, rest = _parser().parse_known_args(arguments)
    if rest and options.command != "test":
        _parser().error(f"unrecognised: {' '.join(rest)}")
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        python = Path(sys.executable) if options.here else ready(SIM if options.engine == "sim" else ENGINE)
        if options.command == "test":
            return checks.run(python, [argument for argument in rest if argument != "--"])
        return demo.run(python, Ports(**_ports(options)), engine=options.engine, once=options.once)
    except Unavailable as error:
        say(f"The environment cannot be made: {error}")
        return 1
    except KeyboardInterrupt:
        say("\nInterrupted.")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/run.py", description="Try cortex, or test it, with nothing but Python."
    )
    commands = parser.add_subparsers(dest="command", required=True)

    shown = commands.add_parser("demo", help="two neurons, a gateway, and a shown run")
    shown.add_argument("--once", action="store_true", help="end after the shown run; exit 0 only if every step held")
    shown.add_argument("--engine", choices=["vllm", "sim"], default="vllm", help="sim: simulated, without vLLM's 2 GB")
    shown.add_argument("--port-base", type=int, metavar="N", help="gateway N, metrics N+1, beast N+2, benjy N+3")
    for name, port in PORTS.items():
        shown.add_argument(f"--{name}-port", type=int, metavar="N", help=f"default {port}")

    test = commands.add_parser("test", help="lint, types and all tests; other arguments go to pytest")
    test.set_defaults(engine="vllm")
    for command in (shown, test):
        command.add_argument("--here", action="store_true", help="in the Python that runs this; install nothing")
    return parser


def _ports(options: argparse.Namespace) -> dict[str, int]:
    ports = {}
    for offset, (name, default) in enumerate(PORTS.items()):
        base = default if options.port_base is None else options.port_base + offset
        ports[name] = getattr(options, f"{name}_port") or base
    return ports


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt

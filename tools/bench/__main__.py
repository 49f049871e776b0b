"""`python3 -m tools.bench relay`: compiles, installs, measures, and prints one table."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys

from tools.runner.environment import SIM, Unavailable, ready
from tools.runner.report import say


def main(arguments: list[str]) -> int:
    if importlib.util.find_spec("cortex_gateway") is None:
        try:
            python = ready(SIM)
        except Unavailable as error:
            say(f"The environment cannot be made: {error}")
            return 1
        os.execv(python, [str(python), "-m", "tools.bench", *arguments])  # noqa: S606 (no shell is wanted)
    return _relay(_parser().parse_args(arguments))


def _relay(options: argparse.Namespace) -> int:
    from tools.bench import relay, report
    from tools.bench.load import Failed
    from tools.bench.native import Missing

    plan = relay.Plan(options.seconds, options.rounds, options.open_streams, tuple(options.peers), tuple(options.only))
    try:
        outcome = relay.run(plan)
    except (Missing, Failed) as error:
        say(f"No figures: {error}")
        return 1
    rows, said = report.table(outcome), report.notes(outcome, plan)
    say("\n" + report.plain(rows) + "\n\n" + "\n".join(said))
    if options.write:
        report.write("Relay", rows, said)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tools.bench", description="cortex beside its peers, in one run.")
    commands = parser.add_subparsers(dest="command", required=True)
    relay = commands.add_parser("relay", help="the gateway beside other routers, before a mock engine")
    relay.add_argument("--seconds", type=float, default=2.0, help="of each run (default 2)")
    relay.add_argument("--rounds", type=int, default=3, help="of which medians are taken (default 3)")
    relay.add_argument("--open-streams", type=int, default=1000, help="for the memory figure (default 1000)")
    relay.add_argument("--peers", nargs="*", default=["vllm-router", "smg", "litellm"], help="default: all three")
    every = ["json", "plain", "spliced", "paced", "fixed_rate", "memory"]
    relay.add_argument("--only", nargs="+", default=every, choices=every, metavar="MEASURE", help=", ".join(every))
    relay.add_argument("--write", action="store_true", help="keep the table in tools/bench/RESULTS.md")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

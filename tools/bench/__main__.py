"""`python3 -m tools.bench relay` and its sisters: compile, install, measure, and print one table."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys

from tools.bench.report import Table
from tools.runner.environment import ENGINE, SIM, Unavailable, ready
from tools.runner.report import say

EVERY = ["json", "steady", "plain", "spliced", "alias", "reasoning", "translated", "paced", "fixed_rate", "memory"]


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    needed, recipe = ("vllm", ENGINE) if options.command in ("neuron", "swap") else ("cortex_gateway", SIM)
    if importlib.util.find_spec(needed) is None:
        try:
            python = ready(recipe)
        except Unavailable as error:
            say(f"The environment cannot be made: {error}")
            return 1
        os.execv(python, [str(python), "-m", "tools.bench", *arguments])  # noqa: S606 (no shell is wanted)
    from tools.bench.load import Failed
    from tools.bench.native import Missing

    try:
        heading, rows, notes = MEASURE[options.command](options)
    except (Missing, Failed) as error:
        say(f"No figures: {error}")
        return 1
    from tools.bench import report

    say("\n" + report.plain(rows) + "\n\n" + "\n".join(notes))
    if options.write:
        report.write(heading, rows, notes)
    return 0


def _relay(options: argparse.Namespace) -> tuple[str, Table, list[str]]:
    from tools.bench import relay, tables

    plan = relay.Plan(options.seconds, options.rounds, options.open_streams, tuple(options.peers), tuple(options.only))
    outcome = relay.run(plan)
    return "Relay", tables.relay_table(outcome), tables.relay_notes(outcome, plan)


def _neuron(options: argparse.Namespace) -> tuple[str, Table, list[str]]:
    from tools.bench import neuron, tables

    model = neuron.LARGE if options.large else neuron.TINY
    streams = tuple(options.streams)
    plan = neuron.Plan(options.seconds, options.rounds, streams, options.loads, options.stock_starts, model)
    outcome = neuron.run(plan)
    heading = "Neuron, an engine that is busy" if options.large else "Neuron"
    return heading, tables.neuron_table(outcome, plan), tables.neuron_notes(outcome, plan)


def _schedule(options: argparse.Namespace) -> tuple[str, Table, list[str]]:
    from tools.bench import schedule

    plan = schedule.Plan(options.rounds)
    return "Schedule", schedule.table(schedule.run(plan)), schedule.notes(plan)


def _fleet(options: argparse.Namespace) -> tuple[str, Table, list[str]]:
    from tools.bench import fleet

    plan = fleet.Plan(tuple(options.sizes), tuple(range(1, options.rounds + 1)))
    return "Fleet", fleet.table(fleet.run(plan)), fleet.notes(plan)


def _turns(options: argparse.Namespace) -> tuple[str, Table, list[str]]:
    from tools.bench import turns

    plan = turns.Plan(seeds=tuple(range(1, options.rounds + 1)))
    return "Turns", turns.table(turns.run(plan)), turns.notes(plan)


def _swap(options: argparse.Namespace) -> tuple[str, Table, list[str]]:
    from tools.bench import swap

    plan = swap.Plan(options.questions, options.rounds)
    return "Swap", swap.table(swap.run(plan)), swap.notes(plan)


MEASURE = {"relay": _relay, "neuron": _neuron, "schedule": _schedule, "fleet": _fleet, "turns": _turns, "swap": _swap}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tools.bench", description="cortex beside its peers, in one run.")
    commands = parser.add_subparsers(dest="command", required=True)
    relay = commands.add_parser("relay", help="the gateway beside other routers, before a mock engine")
    relay.add_argument("--open-streams", type=int, default=1000, help="for the memory figure (default 1000)")
    relay.add_argument("--peers", nargs="*", default=["vllm-router", "smg", "litellm"], help="default: all three")
    relay.add_argument("--only", nargs="+", default=EVERY, choices=EVERY, metavar="MEASURE", help=", ".join(EVERY))
    neuron = commands.add_parser("neuron", help="the real engine behind a neuron, beside stock vLLM's server")
    neuron.add_argument("--streams", type=int, nargs="+", default=[1, 4, 16, 64], help="at a time (default 1 4 16 64)")
    neuron.add_argument("--loads", type=int, default=10, help="loads and unloads of ours (default 10)")
    neuron.add_argument("--stock-starts", type=int, default=3, help="starts and stops of stock vLLM (default 3)")
    neuron.add_argument("--large", action="store_true", help="with a model that keeps the engine computing")
    schedule = commands.add_parser("schedule", help="what a decision of the dispatcher costs")
    for command in (relay, neuron):
        command.add_argument("--seconds", type=float, default=2.0, help="of each run (default 2)")
    fleet = commands.add_parser("fleet", help="simulated fleets: ours, plain LRU, round robin")
    fleet.add_argument("--sizes", type=int, nargs="+", default=[3, 30, 300], help="neurons (default 3 30 300)")
    turns = commands.add_parser("turns", help="one simulated device: ours, fixed turns, plain LRU")
    swap = commands.add_parser("swap", help="two models where one fits: ours beside restarting stock vLLM")
    swap.add_argument("--questions", type=int, default=4, help="of a user who alternates (default 4)")
    for command in (relay, neuron, schedule, fleet, turns, swap):
        command.add_argument("--rounds", type=int, default=3, help="of which medians are taken (default 3)")
        command.add_argument("--write", action="store_true", help="keep the table in tools/bench/RESULTS.md")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""`cortex simulate`: a recorded trace on a described fleet, in virtual time. Imports the gateway, as `serve` does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
import msgspec

from cortex_cli.failures import Exit, Failure
from cortex_cli.status import json_option

if TYPE_CHECKING:
    from cortex_gateway.sim.trace import Figures

FILE = click.Path(path_type=Path, dir_okay=False, exists=True)


@click.command()
@click.argument("trace", type=FILE)
@click.option("--fleet", type=FILE, required=True, help="The fleet's file.")
@click.option(
    "--strategy",
    type=click.Choice(["cost", "lru", "priority"]),
    default="cost",
    show_default=True,
    help="Who is evicted, as in cortex.toml.",
)
@click.option(
    "--gateways", type=click.IntRange(1, 16), default=1, show_default=True, help="Through so many, one after the other."
)
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed gives the same figures.")
@json_option
def simulate(
    trace: Path, fleet: Path, strategy: Literal["cost", "lru", "priority"], gateways: int, seed: int, as_json: bool
) -> None:
    """Play TRACE with the gateway's own decisions, and say who waited how long.

    TRACE is JSON lines; all but the first two fields may be left out:

    \b
      {"at_s": 0.5, "model": "m", "prompt_tokens": 900, "completion_tokens": 200, "caller": "key-1"}

    The fleet's file is TOML; all but these fields have defaults (load_s, unload_s, min_devices, replicas_max,
    pinned_on, max_in_flight, max_queue_depth, tokens_per_s, request_tokens_per_s, prompt_tokens_per_s, cache_tokens):

    \b
      [[neurons]]
      name = "beast"
      cards_mb = [24576, 24576]
      [[models]]
      id = "m"
      vram_mb = 16000
    """
    try:
        from cortex_gateway.sim.trace import BadInput, play, read_fleet, read_trace, scenario
    except ModuleNotFoundError as missing:
        if missing.name not in ("cortex_gateway", "cortex_gateway.sim", "cortex_gateway.sim.trace"):
            raise
        hint = "install it from the same checkout (pip install ./packages/cortex-core ./packages/cortex-gateway)"
        raise Failure(Exit.FAILED, "not_installed", f"the gateway is not installed: {hint}") from missing
    reading = trace
    try:
        asked = read_trace(trace.read_text())
        reading = fleet
        what = scenario(read_fleet(fleet.read_text()), asked, strategy=strategy, gateways=gateways)
    except (BadInput, UnicodeDecodeError) as error:
        raise Failure(Exit.CONFIG, "invalid", f"{reading}: {error}") from error
    found = play(what, seed)
    click.echo(msgspec.json.encode(found) if as_json else table(found))


def table(found: Figures) -> str:
    outcomes = ", ".join(f"{count:,} {name}" for name, count in found.outcomes.items())
    return "\n".join(
        f"{name:<10} {value}"
        for name, value in (
            ("requests", f"{found.requests:,} in {found.hours:.2f} hours: {outcomes}"),
            ("wait", f"p50 {found.wait_p50_s:.2f} s, p95 {found.wait_p95_s:.2f} s, at most {found.wait_max_s:.2f} s"),
            ("whole", f"p95 {found.total_p95_s:.2f} s"),
            ("loads", f"{found.loads:,}, {found.loads_per_hour:.1f} an hour"),
            ("warm", f"{found.warm:.1%} of those served waited for no load"),
            ("reused", f"{found.reused:.1%} of prompt tokens were in a prefix cache"),
            ("tokens", f"{found.tokens_per_s:.1f} a second"),
        )
    )

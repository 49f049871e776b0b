"""What there is: `cortex status`, `cortex ps` and `cortex ls`, all read off the gateway's picture of the fleet."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import click
import msgspec

from cortex_cli.client import gateway_option, get, read

if TYPE_CHECKING:
    from cortex_core.gateway_api import FleetView

json_option = click.option("--json", "as_json", is_flag=True, help="Print what the API says, unchanged.")


@click.command()
@gateway_option
@json_option
def status(gateway: str, as_json: bool) -> None:
    """Show neurons, devices, memory, models and their states."""
    from cortex_cli import render

    show(gateway, as_json, "", lambda view, colour: render.status(view, gateway, colour))


@click.command()
@gateway_option
@json_option
def ps(gateway: str, as_json: bool) -> None:
    """Show what is loaded: on which neuron and devices, how much memory it holds, and how busy it is."""
    from cortex_cli import render

    show(gateway, as_json, "neurons", render.ps)


@click.command()
@gateway_option
@json_option
def ls(gateway: str, as_json: bool) -> None:
    """List every model that can be served: where it is loaded and where it could be."""
    from cortex_cli import render

    show(gateway, as_json, "models", render.ls)


def show(gateway: str, as_json: bool, part: str, text: Callable[[FleetView, bool], str]) -> None:
    """The fleet, or one part of it, as the API's own JSON or as text."""
    from cortex_core.gateway_api import FLEET_PATH, FleetView

    body = get(gateway, FLEET_PATH)
    view = read(body, FleetView, gateway)
    if as_json:
        sources: dict[str, msgspec.Raw] = msgspec.json.decode(body, type=dict[str, msgspec.Raw]) if part else {}
        click.echo(bytes(sources[part]) if part else body)
    else:
        click.echo(text(view, wants_colour()), nl=False)


def wants_colour() -> bool:
    """On a terminal, unless its user or its kind says no (https://no-color.org)."""
    import os

    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

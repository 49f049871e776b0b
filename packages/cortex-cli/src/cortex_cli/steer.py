"""Steering: `load`, `unload`, `pin`, `unpin`, `cordon`, `uncordon`, and `explain`, which changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click
import msgspec

from cortex_cli.client import BY_CODE, gateway_option, post, read
from cortex_cli.failures import Exit, Failure
from cortex_cli.status import json_option

if TYPE_CHECKING:
    from cortex_core.gateway_api import Done, Explanation

LOAD_TIMEOUT_S = 1000.0
"""Longer than the neuron gives a load: its own word is better than our silence."""

neuron_option = click.option("--neuron", metavar="NAME", help="Only there.")
neuron_argument = click.argument("neuron")
model_argument = click.argument("model")


@click.command()
@model_argument
@neuron_option
@click.option("--dry-run", is_flag=True, help="Say where it would go and what would have to leave, and do nothing.")
@gateway_option
@json_option
def load(model: str, neuron: str | None, dry_run: bool, gateway: str, as_json: bool) -> None:
    """Load MODEL, letting idle models go where that makes room. Returns when it serves."""
    from cortex_core.gateway_api import LOAD_PATH, LoadCommand

    if dry_run:
        if neuron:
            raise click.UsageError("--dry-run tells what the gateway would choose: it goes without --neuron")
        told = _explain(model, "", gateway, as_json)
        if told.outcome == "refused":
            raise Failure(BY_CODE.get(told.error, Exit.FAILED), told.error, told.reason)
        return
    _act(gateway, LOAD_PATH, LoadCommand(model=model, neuron=neuron), as_json, _loaded)


@click.command()
@model_argument
@neuron_option
@click.option("--now", is_flag=True, help="Cut its requests instead of letting them end.")
@gateway_option
@json_option
def unload(model: str, neuron: str | None, now: bool, gateway: str, as_json: bool) -> None:
    """Unload MODEL once its requests have ended."""
    from cortex_core.gateway_api import UNLOAD_PATH, UnloadCommand

    command = UnloadCommand(model=model, neuron=neuron, now=now)
    _act(gateway, UNLOAD_PATH, command, as_json, lambda done: f"{done.model} was unloaded from {_names(done)}")


@click.command()
@model_argument
@neuron_option
@gateway_option
@json_option
def pin(model: str, neuron: str | None, gateway: str, as_json: bool) -> None:
    """Keep MODEL loaded: nothing evicts it. Kept over restarts of the neuron."""
    _pin(model, neuron, True, gateway, as_json)


@click.command()
@model_argument
@neuron_option
@gateway_option
@json_option
def unpin(model: str, neuron: str | None, gateway: str, as_json: bool) -> None:
    """Let MODEL be evicted again, also where the catalogue pins it."""
    _pin(model, neuron, False, gateway, as_json)


@click.command()
@neuron_argument
@click.option("--reason", default="", metavar="TEXT", help="For whoever wonders.")
@gateway_option
@json_option
def cordon(neuron: str, reason: str, gateway: str, as_json: bool) -> None:
    """Send NEURON no new requests and load nothing there. Kept over its restarts."""
    _cordon(neuron, True, reason, gateway, as_json)


@click.command()
@neuron_argument
@gateway_option
@json_option
def uncordon(neuron: str, gateway: str, as_json: bool) -> None:
    """Let NEURON work again."""
    _cordon(neuron, False, "", gateway, as_json)


@click.command()
@model_argument
@click.option("--session", default="", metavar="KEY", help="As a request of this session.")
@gateway_option
@json_option
def explain(model: str, session: str, gateway: str, as_json: bool) -> None:
    """Say what would happen to a request for MODEL that came now: where, after what, in about how long."""
    _explain(model, session, gateway, as_json)


def _explain(model: str, session: str, gateway: str, as_json: bool) -> Explanation:
    from cortex_cli import render
    from cortex_core.gateway_api import EXPLAIN_PATH, ExplainRequest, Explanation

    body = post(gateway, EXPLAIN_PATH, msgspec.json.encode(ExplainRequest(model=model, session=session)))
    explanation = read(body, Explanation, gateway)
    click.echo(body if as_json else render.explanation(explanation), nl=as_json)
    return explanation


def _pin(model: str, neuron: str | None, pinned: bool, gateway: str, as_json: bool) -> None:
    from cortex_core.gateway_api import PIN_PATH, PinCommand

    said = "is pinned to" if pinned else "is no longer pinned to"
    command = PinCommand(model=model, neuron=neuron, pinned=pinned)
    _act(gateway, PIN_PATH, command, as_json, lambda done: f"{done.model} {said} {_names(done)}")


def _cordon(neuron: str, cordoned: bool, reason: str, gateway: str, as_json: bool) -> None:
    from cortex_core.gateway_api import CORDON_PATH, CordonCommand

    said = "is cordoned" if cordoned else "works again"
    command = CordonCommand(neuron=neuron, cordoned=cordoned, reason=reason)
    _act(gateway, CORDON_PATH, command, as_json, lambda done: f"{_names(done)} {said}")


def _act(gateway: str, path: str, command: msgspec.Struct, as_json: bool, said: Callable[[Done], str]) -> None:
    from cortex_core.gateway_api import Done

    body = post(gateway, path, msgspec.json.encode(command), timeout_s=LOAD_TIMEOUT_S)
    done = read(body, Done, gateway)
    click.echo(body if as_json else said(done))


def _loaded(done: Done) -> str:
    if not done.seconds:
        return f"{done.model} is ready on {_names(done)} already"
    went = f", after {', '.join(done.let_go)} went" if done.let_go else ""
    return f"{done.model} is ready on {_names(done)} after {done.seconds:.1f} s{went}"


def _names(done: Done) -> str:
    from cortex_cli.render import plain

    return ", ".join(plain(name) for name in done.neurons)

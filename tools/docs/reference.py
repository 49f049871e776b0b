"""REFERENCE.md of each package, and the packaged configurations, from what the code itself declares."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any, cast

from cortex_core.config import Catalogue, CortexConfig, NeuronConfig
from cortex_core.config.described import keys
from cortex_core.errors import KINDS
from tools.docs.man import shown, title

HEAD = "<!-- Written by `nox -s reference` from the code: change it there. -->\n"


def files() -> dict[str, str]:
    """Path in the checkout → text."""
    from cortex_cli.first import cortex_toml, models_toml, neuron_toml

    return {
        "rpm/cortex.toml": cortex_toml(),
        "rpm/models.toml": models_toml(),
        "rpm/neuron.toml": neuron_toml(),
        "packages/cortex-core/REFERENCE.md": core(),
        "packages/cortex-gateway/REFERENCE.md": gateway(),
        "packages/neuron/REFERENCE.md": neuron(),
        "packages/cortex-cli/REFERENCE.md": cli(),
    }


def core() -> str:
    from cortex_core.errors import Dialect

    parts = ["# cortex-core: reference", HEAD, "## Dialects", "", table(["dialect"], ([f"`{one}`"] for one in Dialect))]
    return join([*parts, *errors()])


def gateway() -> str:
    parts = ["# cortex-gateway: reference", HEAD, *config("cortex.toml", CortexConfig, "CORTEX")]
    parts += [*config("models.toml", Catalogue, ""), *gateway_api(), *metrics(), *errors()]
    return join(parts)


def neuron() -> str:
    from cortex_core.neuron_api import REFUSALS
    from neuron.api.telemetry import HELP
    from neuron.main import parser as daemon
    from neuron.setup.main import parser as setup

    parts = ["# neuron: reference", HEAD, *config("neuron.toml", NeuronConfig, "NEURON")]
    parts += [
        "## API",
        "",
        "Of gateways, with the fleet's token as a bearer token. `/version` and `/health` answer all.",
        "",
    ]
    parts += [table(["call", "what"], neuron_api()), ""]
    refusals = ([f"`{code}`", str(status), retry] for code, (status, retry) in REFUSALS.items())
    parts += ["### Refusals", "", table(["code", "status", "try again"], refusals), ""]
    parts += ["## Metrics", "", "On `/metrics`, all gauges, beside the engines' own (`vllm:…`, with `model_name`).", ""]
    parts += [table(["metric", "what"], ([f"`{name}`", text] for name, text in HELP.items())), ""]
    for program in (daemon(), setup()):
        parts += [f"## `{program.prog}`", "", *arguments(program)]
    return join(parts)


def cli() -> str:
    import click

    from cortex_cli.failures import Exit
    from cortex_cli.main import cortex

    parts = ["# cortex-cli: reference", HEAD]

    def walk(command: click.Command, path: Sequence[str]) -> None:
        context = click.Context(command, info_name=" ".join(path))
        if isinstance(command, click.Group):
            for name in command.commands:
                walk(command.commands[name], [*path, name])
        else:
            parts.extend([f"## {' '.join(path)}", "", "```", command.get_help(context).replace("\b", ""), "```", ""])

    walk(cortex, ["cortex"])
    codes = ([str(int(code)), code.name.lower().replace("_", " ")] for code in Exit)
    return join([*parts, "## Exit codes", "", table(["code", "meaning"], codes)])


def config(name: str, kind: type[Any], prefix: str) -> list[str]:
    """A section for a configuration file."""
    parts = [f"## {name}", ""]
    if prefix:
        parts += [f"`{prefix}_TABLE__KEY=value` in the environment goes over the file.", ""]
    for of in dict.fromkeys(key.table for key in keys(kind)):
        rows = (
            [f"`{key.name}`", f"`{shown(key)}`", key.kind.replace("|", "or"), key.description]
            for key in keys(kind)
            if key.table == of
        )
        parts += [f"### `{title(of)}`" if of else "### At the top", ""]
        parts += [table(["key", "default", "kind", "meaning"], rows), ""]
    return parts


def gateway_api() -> list[str]:
    from starlette.routing import Route

    from cortex_gateway import app
    from cortex_gateway.api.about import About
    from cortex_gateway.dispatch.steering import Steering

    nothing = cast(Any, None)
    about = About(nothing, cast(Any, Steering), nothing, version="", ids=nothing).app()
    rows = [[f"`POST {path}`", f"{dialect}: a model answers"] for path, (dialect, _) in app._ROUTES.items()]
    rows += [
        [f"`POST {path}`", f"{dialect}: tokens are counted, nothing is generated"]
        for path, dialect in app._COUNTED.items()
    ]
    for route in about.routes:
        assert isinstance(route, Route)
        methods = sorted((route.methods or set()) - {"HEAD"})
        rows += [[f"`{method} {route.path}`", first(route.endpoint.__doc__)] for method in methods]
    note = (
        "Paths below `/v1` answer without it too, and below `/v1/v1` and `/anthropic/v1`, where clients put their own."
    )
    return ["## API", "", note, "", table(["call", "what"], rows), ""]


def neuron_api() -> list[list[str]]:
    from neuron.api.api import Api
    from neuron.api.app import OF_ENGINES, App

    routes = App(cast(Any, Api), "")._routes
    rows = [[f"`{method} {path}`", first(handler.__doc__)] for (method, path), handler in routes.items()]
    rows += [["`GET /operations/{id}`", "A command as it is now."], ["`POST /operations/{id}/cancel`", "Give it up."]]
    return [*rows, [f"`POST /v1/…`, `{'`, `'.join(sorted(OF_ENGINES))}`", "relayed to the model's engine"]]


def metrics() -> list[str]:
    from cortex_core.metrics import METRICS

    rows = ([f"`{one.name}`", one.kind, ", ".join(one.labels) or "–", one.help] for one in METRICS)
    return [
        "## Metrics",
        "",
        "On `[gateway] metrics_listen`, at `/metrics`.",
        "",
        table(["metric", "kind", "labels", "what"], rows),
        "",
    ]


def errors() -> list[str]:
    rows = []
    for kind, rule in KINDS.items():
        code = f"`{rule.openai_code}`" if rule.openai_code else "–"
        theirs = [str(rule.anthropic_status), f"`{rule.anthropic_type}`"]
        rows.append([f"`{kind}`", str(rule.status), code, *theirs, "yes" if rule.retryable else "–"])
    names = ["kind", "status", "OpenAI code", "Anthropic status", "Anthropic type", "`Retry-After`"]
    return ["## Errors", "", table(names, rows), ""]


def arguments(parser: argparse.ArgumentParser) -> list[str]:
    rows = []
    for action in parser._actions:
        name = ", ".join(action.option_strings) or "|".join(action.choices or [action.dest])
        rows.append([f"`{name}`".replace("|", "\\|"), (action.help or "").replace("%%", "%")])
    return [f"{parser.description}", "", f"{parser.epilog}", "", table(["argument", "meaning"], rows), ""]


def table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def first(text: str | None) -> str:
    """Of a docstring: its first sentence."""
    return " ".join((text or "").strip().partition("\n\n")[0].split())


def join(parts: Sequence[str]) -> str:
    return "\n".join(parts).rstrip() + "\n"

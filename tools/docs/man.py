"""Manual pages in roff (man-pages(7)) out of click's commands, argparse's parsers and the configuration's keys."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from cortex_core.config import Catalogue, CortexConfig, NeuronConfig
from cortex_core.config.described import Key, keys

FILES = {
    "cortex.toml": (CortexConfig, "the gateway's configuration", "CORTEX", "cortex(1), models.toml(5)"),
    "models.toml": (Catalogue, "the catalogue of a cortex fleet", "", "cortex.toml(5)"),
    "neuron.toml": (NeuronConfig, "the neuron's configuration", "NEURON", "neuron(8)"),
}


def pages(of: str) -> dict[str, str]:
    """Path below a man folder → page; `of` is the package that ships them."""
    if of == "neuron":
        from neuron.main import parser as daemon
        from neuron.setup.main import parser as setup

        found = {
            f"man8/{one.prog}.8": program(one, 8, see) for one, see in ((daemon(), SEE_NEURON), (setup(), SEE_SETUP))
        }
        return found | {"man5/neuron.toml.5": config("neuron.toml")}
    return commands() | {f"man5/{name}.5": config(name) for name in ("cortex.toml", "models.toml")}


SEE_NEURON = "neuron-setup(8), neuron.toml(5)"
SEE_SETUP = "neuron(8), neuron.toml(5)"


def commands() -> dict[str, str]:
    """cortex(1), and one page for each of its commands."""
    import click

    from cortex_cli.main import cortex

    found = {}

    def walk(command: click.Command, path: Sequence[str]) -> None:
        name = "-".join(path)
        text = command.help or ""
        inner = command.commands if isinstance(command, click.Group) else {}
        see = [f"{name}-{one}(1)" for one in inner] or [f"{'-'.join(path[:-1])}(1)"]
        usage = " ".join(command.collect_usage_pieces(click.Context(command)))
        parts = [*head(name, 1, text), ".SH SYNOPSIS", f"\\fB{roff(' '.join(path))}\\fR {roff(usage)}"]
        parts += [".SH DESCRIPTION", *paragraphs(text)]
        options = [one for one in command.params if isinstance(one, click.Option)]
        if options:
            parts += [".SH OPTIONS"]
            for option in options:
                parts += tagged(", ".join(option.opts) + value(option), option.help or "")
        for one in inner.values():
            walk(one, [*path, str(one.name)])
        found[f"man1/{name}.1"] = page([*parts, ".SH SEE ALSO", ", ".join(see)])

    def value(option: click.Option) -> str:
        return "" if option.is_flag else f" {option.make_metavar(click.Context(click.Command('x')))}"

    walk(cortex, ["cortex"])
    return found


def program(parser: argparse.ArgumentParser, section: int, see: str) -> str:
    """A program that argparse describes."""
    parts = head(parser.prog, section, parser.description or "")
    usage = " ".join(parser.format_usage().removeprefix("usage: ").split()).removeprefix(parser.prog)
    parts += [".SH SYNOPSIS", f"\\fB{roff(parser.prog)}\\fR {roff(usage.strip())}", ".SH DESCRIPTION"]
    parts += paragraphs(parser.description or "") + paragraphs(parser.epilog or "")
    parts.append(".SH OPTIONS")
    for action in parser._actions:
        name = ", ".join(action.option_strings) or "|".join(action.choices or [action.dest])
        takes = "" if action.nargs == 0 or not action.option_strings else f" {action.metavar or action.dest.upper()}"
        parts += tagged(name + takes, (action.help or "").replace("%%", "%"))
    return page([*parts, ".SH SEE ALSO", see])


def config(name: str) -> str:
    """A configuration file, key by key."""
    kind, says, prefix, see = FILES[name]
    parts = [
        *head(name, 5, says),
        ".SH DESCRIPTION",
        "TOML. An unknown key is refused, and the nearest known one told.",
    ]
    if prefix:
        parts += [".PP", f"The environment goes over the file: {prefix}_TABLE__KEY=value, lists as TOML writes them."]
    table = None
    for key in keys(kind):
        if key.table != table:
            table = key.table
            parts.append(f".SH {roff(title(table)) if table else 'TOP LEVEL'}")
        parts += tagged(f"{key.name} = {shown(key)}", f"{key.description}. {key.kind}.".strip(". ") + ".")
    return page([*parts, ".SH SEE ALSO", see])


def title(table: str) -> str:
    """`neurons[]` → `[[neurons]]`."""
    return f"[[{table.removesuffix('[]')}]]" if table.endswith("[]") else f"[{table}]"


def shown(key: Key) -> str:
    from cortex_core.config.described import toml

    return "(required)" if key.required else toml(key.default) if key.default is not None else "(none)"


def head(name: str, section: int, says: str) -> list[str]:
    first = re.split(r"(?<=\.)\s", says.strip())[0].rstrip(".")
    return [
        f'.TH "{name.upper()}" "{section}" "" "cortex"',
        ".SH NAME",
        f"{roff(name)} \\- {roff(' '.join(first.split()))}",
    ]


def paragraphs(text: str) -> list[str]:
    """Click's conventions: a blank line parts paragraphs, and `\\b` keeps one as it is."""
    found = []
    for block in re.split(r"\n\s*\n", text.strip()):
        if block.lstrip().startswith("\b"):
            found += [".PP", ".nf", *(roff(line) for line in block.lstrip().split("\n")[1:]), ".fi"]
        else:
            found += [".PP", roff(" ".join(block.split()))]
    return found


def tagged(name: str, says: str) -> list[str]:
    return [".TP", f"\\fB{roff(name)}\\fR", roff(" ".join(says.split())) or "\\&"]


def page(lines: Iterable[str]) -> str:
    return "\n".join(_guarded(lines)) + "\n"


def _guarded(lines: Iterable[str]) -> Iterator[str]:
    """A text that begins with a dot or an apostrophe is no request."""
    for line in lines:
        request = re.match(r"\.(TH|SH|PP|TP|nf|fi)\b", line)
        yield line if request or not line.startswith((".", "'")) else "\\&" + line


def roff(text: Any) -> str:
    return str(text).replace("\\", "\\e").replace("-", "\\-")

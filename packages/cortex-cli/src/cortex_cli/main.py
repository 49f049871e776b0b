"""The group, and how each ending becomes an exit code. Commands import what they need when they run: help is quick."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from cortex_cli.config import config
from cortex_cli.failures import Exit, Failure, report
from cortex_cli.serve import serve
from cortex_cli.simulate import simulate
from cortex_cli.status import ls, ps, status
from cortex_cli.steer import cordon, explain, load, pin, uncordon, unload, unpin
from cortex_cli.version import version


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cortex() -> None:
    """One inference service from a handful of mismatched GPU hosts.

    Exit codes: 0 ok, 1 failed, 2 usage, 3 configuration invalid, 4 gateway or neuron unreachable, 5 no such model or
    neuron, 6 does not fit, 7 timed out, 8 refused, 130 interrupted.
    """


for command in (serve, status, ps, ls, load, unload, pin, unpin, cordon, uncordon, explain, simulate, config, version):
    cortex.add_command(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. With `--json` also what goes wrong is JSON, on stderr."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        outcome = cortex.main(args=list(arguments), prog_name="cortex", standalone_mode=False)
    except Failure as failure:
        return report(failure, as_json="--json" in arguments)
    except click.ClickException as error:  # of usage, all but always
        if "--json" in arguments:
            return report(Failure(Exit(error.exit_code), "usage", error.format_message()), as_json=True)
        error.show()
        return error.exit_code
    except click.Abort:
        return Exit.INTERRUPTED
    return int(outcome or Exit.OK)

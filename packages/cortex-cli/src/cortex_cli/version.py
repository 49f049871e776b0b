"""`cortex version`."""

from __future__ import annotations

import click


@click.command()
def version() -> None:
    """Print the version of this command line."""
    click.echo(f"cortex {installed()}")


def installed() -> str:
    """The version of the installed distribution; run from a bare checkout there is none."""
    from importlib import metadata

    try:
        return metadata.version("cortex-cli")
    except metadata.PackageNotFoundError:
        return "(not installed: run from its sources)"

"""`cortex serve`: the gateway. The only command that imports it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from cortex_cli.failures import Exit, Failure

if TYPE_CHECKING:
    from cortex_core.config import Catalogue, CortexConfig

CONFIG = Path("/etc/cortex/cortex.toml")
MODELS = Path("/etc/cortex/models.toml")
FIRST_FD = 3  # sd_listen_fds(3)


@click.command()
@click.option(
    "--config",
    "-c",
    type=click.Path(path_type=Path, dir_okay=False),
    help=f"The gateway's configuration.  [default: {CONFIG}, where it exists]",
)
@click.option("--processes", type=click.IntRange(1, 256), help="Over `[gateway] processes`: so many whole gateways.")
@click.pass_context
def serve(context: click.Context, config: Path | None, processes: int | None) -> None:
    """Run the gateway.

    Without any configuration it serves what one neuron on this host (127.0.0.1:13131) has.
    """
    settings, catalogue = configuration(config)
    try:
        from cortex_gateway.main import main
    except ModuleNotFoundError as missing:
        if missing.name not in ("cortex_gateway", "cortex_gateway.main"):
            raise
        hint = "install it from the same checkout (pip install ./packages/cortex-core ./packages/cortex-gateway)"
        raise Failure(Exit.FAILED, "not_installed", f"the gateway is not installed: {hint}") from missing
    if processes:
        gateway = msgspec.structs.replace(settings.gateway, processes=processes)
        settings = msgspec.structs.replace(settings, gateway=gateway)
    context.exit(main(activated(settings), catalogue))


def activated(settings: CortexConfig) -> CortexConfig:
    """With what systemd listens on for us (cortex.socket) in place of the addresses: clients first, metrics second."""
    import os

    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return settings
    passed = range(int(os.environ.get("LISTEN_FDS", "0")))
    addresses = {name: f"fd:{FIRST_FD + fd}" for fd, name in zip(passed, ("listen", "metrics_listen"), strict=False)}
    return msgspec.structs.replace(settings, gateway=msgspec.structs.replace(settings.gateway, **addresses))


def configuration(path: Path | None) -> tuple[CortexConfig, Catalogue]:
    """cortex.toml and models.toml, warnings said.

    Raises:
        Failure: one line with file, table, key and hint.
    """
    from cortex_core.config import Catalogue, ConfigError, load_cortex, load_models

    try:
        settings = load_cortex(path or (CONFIG if CONFIG.exists() else None))
        models = Path(settings.models_config) if settings.models_config else MODELS
        if not settings.models_config and not models.exists():
            return settings, Catalogue()
        catalogue, warnings = load_models(models)
    except ConfigError as error:
        raise Failure(Exit.CONFIG, "config_invalid", str(error)) from error
    for warning in warnings:
        click.echo(f"cortex: {warning}", err=True)
    return settings, catalogue

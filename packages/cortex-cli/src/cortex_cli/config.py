"""`cortex config`: what is wrong with a configuration, what holds, what editors want to know, and a first one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click
import msgspec

from cortex_cli.failures import Exit, Failure
from cortex_cli.serve import CONFIG, MODELS
from cortex_cli.status import json_option

if TYPE_CHECKING:
    from cortex_core.config import Catalogue, CortexConfig, NeuronConfig

NEURON = Path("/etc/neuron/neuron.toml")
WITHHELD = "(withheld)"

What = Literal["cortex", "models", "neuron"]
T = TypeVar("T")


class Checked(msgspec.Struct):
    """What `check --json` prints."""

    files: list[str]
    says: str
    warnings: list[str]


@click.group()
def config() -> None:
    """Check, show, describe and begin the configuration files.

    WHAT is `cortex` (cortex.toml with the models.toml it names), `models`, or `neuron`.
    """


what_argument = click.argument("what", type=click.Choice(["cortex", "models", "neuron"]), default="cortex")
file_option = click.option(
    "--config",
    "-c",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    help=f"The file.  [default: {CONFIG}, {MODELS} or {NEURON}, where it exists]",
)


@config.command()
@what_argument
@file_option
@json_option
def check(what: What, file: Path | None, as_json: bool) -> None:
    """Say whether WHAT can be used. What is wrong is told with file, key and hint, and exit code 3.

    The services run it before they start. The environment is read as they read it.
    """
    files, says, warnings = _CHECKS[what](file)
    if as_json:
        click.echo(msgspec.json.encode(Checked([str(one) for one in files], says, warnings)))
        return
    for warning in warnings:
        click.echo(f"cortex: {warning}", err=True)
    click.echo(f"{', '.join(map(str, files)) or 'no file'}: fine, {says}")


@config.command()
@what_argument
@file_option
@json_option
def show(what: What, file: Path | None, as_json: bool) -> None:
    """Print WHAT as it holds: every key, defaults and environment included, as TOML. Secrets are withheld."""
    import tomli_w

    values = msgspec.to_builtins(_LOADS[what](file)[1], enc_hook=str)
    shown = _withheld(values)
    click.echo(msgspec.json.encode(shown) if as_json else tomli_w.dumps(shown), nl=as_json)


@config.command()
@what_argument
def schema(what: What) -> None:
    """Print the JSON Schema of WHAT's file, for editors that complete and check TOML (taplo, VS Code, Zed)."""
    from cortex_core.config import Catalogue, CortexConfig, NeuronConfig
    from cortex_core.config.described import schema

    kinds: dict[str, type[Any]] = {"cortex": CortexConfig, "models": Catalogue, "neuron": NeuronConfig}
    click.echo(msgspec.json.format(msgspec.json.encode(schema(kinds[what], f"{what}.toml")), indent=2))


@config.command()
@click.argument("what", type=click.Choice(["cortex", "neuron"]), default="cortex")
@click.option(
    "--folder", type=click.Path(path_type=Path, file_okay=False), help="Where to.  [default: as services read]"
)
@click.option("--neuron", "neurons", multiple=True, metavar="URL", help="A neuron to ask what it has; may be repeated.")
@click.option("--force", is_flag=True, help="Over what is there already.")
def init(what: Literal["cortex", "neuron"], folder: Path | None, neurons: tuple[str, ...], force: bool) -> None:
    """Write commented files, from what is found here.

    `cortex`: cortex.toml and models.toml, with the neurons that answer and the models they have. `neuron`: neuron.toml
    for this host, with its processor declared as a device where there is no GPU.
    """
    from cortex_cli.first import Files, of_cortex, of_neuron

    found: Files = of_cortex(neurons) if what == "cortex" else of_neuron()
    folder = folder or (CONFIG if what == "cortex" else NEURON).parent
    there = [folder / name for name in found.texts if (folder / name).exists()]
    if there and not force:
        names = ", ".join(map(str, there))
        raise Failure(Exit.REFUSED, "exists", f"{names}: there already; --force writes over it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in found.texts.items():
            (folder / name).write_text(text, encoding="utf-8")
            click.echo(f"{folder / name}: written")
    except OSError as error:
        raise Failure(Exit.FAILED, "not_written", f"{error.filename}: {error.strerror}") from error
    for remark in found.remarks:
        click.echo(f"cortex: {remark}", err=True)


# ---------------------------------------------------------------------------------------------------------- the files


def _cortex(file: Path | None) -> tuple[list[Path], CortexConfig]:
    from cortex_core.config import load_cortex

    path = file or (CONFIG if CONFIG.exists() else None)
    return [path] if path else [], _read(lambda: load_cortex(path))


def _models(file: Path | None) -> tuple[list[Path], Catalogue]:
    path, (catalogue, _) = _catalogue(file)
    return [path] if path else [], catalogue


def _neuron(file: Path | None) -> tuple[list[Path], NeuronConfig]:
    from cortex_core.config import load_neuron

    path = file or (NEURON if NEURON.exists() else None)
    return [path] if path else [], _read(lambda: load_neuron(path))


def _catalogue(file: Path | None) -> tuple[Path | None, tuple[Catalogue, tuple[str, ...]]]:
    from cortex_core.config import Catalogue, load_models

    path = file or (MODELS if MODELS.exists() else None)
    return path, _read(lambda: load_models(path)) if path else (Catalogue(), ())


def _check_cortex(file: Path | None) -> tuple[list[Path], str, list[str]]:
    files, settings = _cortex(file)
    _check_certificate(settings, files)
    models, (catalogue, warnings) = _catalogue(Path(settings.models_config) if settings.models_config else None)
    says = f"{_count(len(settings.neurons), 'neuron')} and {_served(catalogue)}"
    return [*files, *([models] if models else [])], says, list(warnings)


def _check_models(file: Path | None) -> tuple[list[Path], str, list[str]]:
    path, (catalogue, warnings) = _catalogue(file)
    return [path] if path else [], _served(catalogue), list(warnings)


def _check_neuron(file: Path | None) -> tuple[list[Path], str, list[str]]:
    files, settings = _neuron(file)
    return files, f"{settings.engine.kind} engines on {settings.neuron.listen}", []


def _check_certificate(settings: CortexConfig, files: list[Path]) -> None:
    """As the gateway will: a certificate that cannot be read is a configuration that cannot be used."""
    if not settings.tls.certificate:
        return
    import ssl

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.tls.certificate, settings.tls.key, lambda: "")
    except (OSError, ValueError) as error:
        where = f"{files[0] if files else 'environment'}: [tls] certificate"
        text = f"{where}: {settings.tls.certificate} with {settings.tls.key} cannot be used: {error}"
        raise Failure(
            Exit.CONFIG, "config_invalid", f"{text}; both are PEM files, the key without a password"
        ) from error


def _read(load: Callable[[], T]) -> T:
    from cortex_core.config import ConfigError

    try:
        return load()
    except ConfigError as error:
        raise Failure(Exit.CONFIG, "config_invalid", str(error)) from error


def _served(catalogue: Catalogue) -> str:
    return _count(len(catalogue.models), "model") if catalogue.models else "the models that the neurons have"


def _count(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _withheld(value: Any) -> Any:
    """For people to see: without secrets, and without what TOML cannot say."""
    if isinstance(value, dict):
        kept = {key: _withheld(one) for key, one in value.items() if one is not None}
        return kept | ({"token": WITHHELD} if kept.get("token") else {})
    return [_withheld(one) for one in value] if isinstance(value, list | tuple) else value


_LOADS: dict[str, Callable[[Path | None], tuple[list[Path], Any]]] = {
    "cortex": _cortex,
    "models": _models,
    "neuron": _neuron,
}
_CHECKS = {"cortex": _check_cortex, "models": _check_models, "neuron": _check_neuron}

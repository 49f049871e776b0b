"""cortex.toml: the gateway."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct, structs

from cortex_core.config.loader import ConfigError, convert, over, read_toml
from cortex_core.config.values import Address, Endpoint, Megabytes, Seconds, read_token
from cortex_core.fleet import NeuronName


class Gateway(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    listen: Address = "127.0.0.1:31313"
    metrics_listen: Address = "127.0.0.1:31314"
    processes: Annotated[int, Meta(ge=1, le=256)] = 1  # each a whole gateway, on the same port
    hosts: tuple[str, ...] = ()  # names it is asked by; empty: localhost, and beyond loopback this host's own
    hold_s: Seconds = 240.0  # how long a streaming request may wait for its lease
    hold_not_streaming_s: Seconds = 120.0
    max_body_mb: Megabytes = 32
    max_held_mb: Megabytes = 512  # of bodies whose answer has not begun
    max_waiters: Annotated[int, Meta(ge=1)] = 1000  # a model; four times that in all
    drain_s: Seconds = 120.0


class Tls(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of the clients' port. Both files or neither."""

    certificate: str = ""  # PEM, with its chain
    key: str = ""


class Eviction(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    strategy: Literal["cost", "lru", "priority"] = "cost"
    defrag_after_cycles: Annotated[int, Meta(ge=0)] = 50


class FleetTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    token_file: str = ""
    token: str = ""  # CORTEX_FLEET__TOKEN


class NeuronEntry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: NeuronName
    endpoint: Endpoint


class CortexConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    models_config: str = ""
    gateway: Gateway = Gateway()
    tls: Tls = Tls()
    eviction: Eviction = Eviction()
    fleet: FleetTable = FleetTable()
    neurons: tuple[NeuronEntry, ...] = (NeuronEntry(name="local", endpoint="http://127.0.0.1:13131"),)


def load_cortex(path: Path | None, environ: Mapping[str, str] = os.environ) -> CortexConfig:
    """The gateway's configuration. Without a file: one neuron on this host's own port.

    Relative paths in it are resolved against the file; the token is read.

    Raises:
        ConfigError: with file, table, key and hint.
    """
    values = read_toml(path) if path else {}
    source = str(path) if path else "environment"
    config = convert(over(values, CortexConfig, "CORTEX", environ), CortexConfig, source)
    names = [neuron.name for neuron in config.neurons]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise ConfigError(source, f"[[neurons]] #{number + 1} name", f"`{name}` is taken by an earlier neuron")
    base = path.parent if path else Path()
    if bool(config.tls.certificate) != bool(config.tls.key):
        missing = "key" if config.tls.certificate else "certificate"
        raise ConfigError(source, f"[tls] {missing}", "is missing: certificate and key go together")
    tls = Tls(
        certificate=str(base / config.tls.certificate) if config.tls.certificate else "",
        key=str(base / config.tls.key) if config.tls.key else "",
    )
    models = str(base / config.models_config) if config.models_config else ""
    token = read_token(config.fleet.token, config.fleet.token_file, base, source, "[fleet] token_file")
    return structs.replace(config, models_config=models, tls=tls, fleet=structs.replace(config.fleet, token=token))

"""cortex.toml: the gateway."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct, structs

from cortex_core.config.loader import TAKEN, ConfigError, convert, over, read_toml
from cortex_core.config.values import Address, Endpoint, Megabytes, Seconds, read_token
from cortex_core.fleet import NeuronName


class Gateway(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    listen: Annotated[Address, Meta(description="where clients connect")] = "127.0.0.1:31313"
    metrics_listen: Annotated[Address, Meta(description="where Prometheus scrapes")] = "127.0.0.1:31314"
    processes: Annotated[
        int, Meta(ge=1, le=256), Meta(description="each a whole gateway, all on the one port: for more than one core")
    ] = 1
    hosts: Annotated[
        tuple[str, ...],
        Meta(description="names it may be asked by; empty: localhost, and beyond loopback the names of this host"),
    ] = ()
    hold_s: Annotated[
        Seconds,
        Meta(description="how long a streaming request waits for its model before it is told when to come again"),
    ] = 240.0
    hold_not_streaming_s: Annotated[Seconds, Meta(description="the same for a request that does not stream")] = 120.0
    max_body_mb: Annotated[Megabytes, Meta(description="of one request")] = 32
    max_held_mb: Annotated[Megabytes, Meta(description="of all requests whose answer has not begun")] = 512
    max_waiters: Annotated[
        int, Meta(ge=1), Meta(description="requests waiting for one model; four times that in all")
    ] = 1000
    drain_s: Annotated[Seconds, Meta(description="for open requests when the gateway is told to end")] = 120.0


class Tls(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of the clients' port. Both files or neither."""

    certificate: Annotated[
        str, Meta(description="a PEM file with its chain, for the clients' port; empty: in the clear")
    ] = ""
    key: Annotated[str, Meta(description="the certificate's PEM file")] = ""


class Eviction(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    strategy: Annotated[
        Literal["cost", "lru", "priority"],
        Meta(description="who leaves: the cheapest to bring back, the least recently used, or the lowest priority"),
    ] = "cost"
    defrag_after_cycles: Annotated[
        int, Meta(ge=0), Meta(description="after so many swaps idle models may move together; 0: never")
    ] = 50


class FleetTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    token_file: Annotated[
        str, Meta(description="the neurons' shared token; the token itself may stand in CORTEX_FLEET__TOKEN")
    ] = ""
    token: Annotated[str, Meta(description="CORTEX_FLEET__TOKEN")] = ""


class CatalogueTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    discover: Annotated[
        bool, Meta(description="serve what lies in the neurons' model folders besides what models_config lists")
    ] = True


class NeuronEntry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Annotated[NeuronName, Meta(description="what people call it")]
    endpoint: Annotated[Endpoint, Meta(description="where its daemon listens")]


class CortexConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    models_config: Annotated[str, Meta(description="the catalogue's file; a relative path starts at this file")] = ""
    gateway: Gateway = Gateway()
    tls: Tls = Tls()
    eviction: Eviction = Eviction()
    fleet: FleetTable = FleetTable()
    catalogue: CatalogueTable = CatalogueTable()
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
            raise ConfigError(
                source, f"[[neurons]] #{number + 1} name", f"`{name}` is taken by an earlier neuron", TAKEN
            )
    base = path.parent if path else Path()
    if bool(config.tls.certificate) != bool(config.tls.key):
        missing = "key" if config.tls.certificate else "certificate"
        raise ConfigError(source, f"[tls] {missing}", "is missing", "certificate and key go together: both, or neither")
    tls = Tls(
        certificate=str(base / config.tls.certificate) if config.tls.certificate else "",
        key=str(base / config.tls.key) if config.tls.key else "",
    )
    models = str(base / config.models_config) if config.models_config else ""
    token = read_token(config.fleet.token, config.fleet.token_file, base, source, "[fleet] token_file")
    return structs.replace(config, models_config=models, tls=tls, fleet=structs.replace(config.fleet, token=token))

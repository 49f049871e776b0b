"""neuron.toml: the daemon of one host."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct, structs

from cortex_core.config.loader import ConfigError, convert, over, read_toml
from cortex_core.config.values import Address, Megabytes, Seconds, is_loopback, read_token
from cortex_core.fleet import Count, ModelId

RUN_DIR_BYTES = 60  # a unix socket's path ends at 107 bytes, and vLLM adds 36 to ours


class NeuronTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Annotated[str, Meta(pattern=r"^([A-Za-z0-9][A-Za-z0-9._\-]{0,63})?\Z")] = ""  # empty: the host's name
    listen: Address = "127.0.0.1:13131"
    token_file: str = ""
    token: str = ""  # NEURON_TOKEN
    insecure: bool = False
    state_dir: str = "/var/lib/neuron"
    run_dir: str = "/run/neuron"
    models_dir: str = "/var/lib/neuron/models"


class SimTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The simulated engine. Every report of a neuron that runs it says so."""

    load_s: Seconds = 1.0
    unload_s: Seconds = 0.1
    tokens_per_s: Annotated[float, Meta(gt=0)] = 50.0
    first_token_s: Seconds = 0.05
    weights_mb: Count = 1000
    fail_at: str = ""


class EngineTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    kind: Literal["vllm", "sim"] = "vllm"
    preload: tuple[ModelId, ...] = ()
    stall_s: Annotated[float, Meta(gt=0)] = 120.0  # work and no token for so long: the engine hangs
    load_deadline_s: Annotated[float, Meta(gt=0)] = 900.0
    drain_s: Seconds = 120.0
    turn_guard_s: Seconds = 5.0
    sim: SimTable = SimTable()


class DeviceEntry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    id: Annotated[str, Meta(pattern=r"^(cpu|cuda):[0-9]{1,3}\Z")]
    memory_mb: Megabytes


class NeuronConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    port: Annotated[int, Meta(ge=1, le=65535)] | None = None  # the original's; means 127.0.0.1:port
    neuron: NeuronTable = NeuronTable()
    engine: EngineTable = EngineTable()
    devices: tuple[DeviceEntry, ...] = ()


def load_neuron(path: Path | None, environ: Mapping[str, str] = os.environ) -> NeuronConfig:
    """The daemon's configuration, relative paths resolved against the file and the token read.

    Raises:
        ConfigError: with file, table, key and hint.
    """
    values = read_toml(path) if path else {}
    source = str(path) if path else "environment"
    environ = {k: v for k, v in environ.items() if k != "NEURON_TOKEN"} | (
        {"NEURON_NEURON__TOKEN": environ["NEURON_TOKEN"]} if "NEURON_TOKEN" in environ else {}
    )
    config = convert(over(values, NeuronConfig, "NEURON", environ), NeuronConfig, source)
    base = path.parent if path else Path()
    table = config.neuron
    if config.port is not None:
        table = structs.replace(table, listen=f"127.0.0.1:{config.port}")
    table = structs.replace(
        table,
        token=read_token(table.token, table.token_file, base, source, "[neuron] token_file"),
        state_dir=str(base / table.state_dir),
        run_dir=str(base / table.run_dir),
        models_dir=str(base / table.models_dir),
    )
    if len(os.fsencode(table.run_dir)) > RUN_DIR_BYTES:
        problem = f"{table.run_dir} is longer than {RUN_DIR_BYTES} bytes, and a socket's path could not hold it"
        raise ConfigError(source, "[neuron] run_dir", problem)
    if not (is_loopback(table.listen) or table.token or table.insecure):
        hint = "set token_file (or NEURON_TOKEN), or insecure = true if the network is trusted"
        raise ConfigError(source, "[neuron] listen", f"{table.listen} is open to others without a token", hint)
    seen: set[str] = set()
    for number, device in enumerate(config.devices):
        if device.id in seen:
            raise ConfigError(source, f"[[devices]] #{number + 1} id", f"`{device.id}` is taken by an earlier device")
        seen.add(device.id)
    return structs.replace(config, neuron=table)

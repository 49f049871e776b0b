"""neuron.toml: the daemon of one host."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct, structs

from cortex_core.config.loader import TAKEN, ConfigError, convert, over, read_toml
from cortex_core.config.values import Address, Megabytes, Seconds, is_loopback, read_token
from cortex_core.fleet import Count, ModelId

RUN_DIR_BYTES = 60  # a unix socket's path ends at 107 bytes, and vLLM adds 36 to ours


class NeuronTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Annotated[
        str,
        Meta(pattern=r"^([A-Za-z0-9][A-Za-z0-9._\-]{0,63})?\Z"),
        Meta(description="what people call it; empty: the host's name"),
    ] = ""
    listen: Annotated[
        Address, Meta(description="where gateways connect; beyond loopback it needs token_file, or insecure = true")
    ] = "127.0.0.1:13131"
    token_file: Annotated[
        str, Meta(description="the fleet's shared token; the token itself may stand in NEURON_TOKEN")
    ] = ""
    token: Annotated[str, Meta(description="NEURON_TOKEN")] = ""
    insecure: Annotated[bool, Meta(description="listen beyond loopback without a token")] = False
    state_dir: Annotated[str, Meta(description="what was learned, pins and cordons, logs and caches")] = (
        "/var/lib/neuron"
    )
    run_dir: Annotated[str, Meta(description="sockets: at most 60 bytes long")] = "/run/neuron"
    models_dir: Annotated[
        str, Meta(description="checkpoints: a folder, or an owner's folder of folders, each with its config.json")
    ] = "/var/lib/neuron/models"


class SimTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The simulated engine. Every report of a neuron that runs it says so."""

    load_s: Annotated[Seconds, Meta(description="what a load takes")] = 1.0
    unload_s: Annotated[Seconds, Meta(description="what an unload takes")] = 0.1
    tokens_per_s: Annotated[float, Meta(gt=0), Meta(description="of one request")] = 50.0
    first_token_s: Annotated[Seconds, Meta(description="until the first token")] = 0.05
    weights_mb: Annotated[Count, Meta(description="of a model without a checkpoint")] = 1000
    fail_at: Annotated[str, Meta(description="a phase at which every load fails")] = ""
    script: Annotated[str, Meta(description="a file of what its models say")] = ""


class EngineTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    kind: Annotated[
        Literal["vllm", "sim"], Meta(description="what computes: vLLM, or a simulation that says so wherever it shows")
    ] = "vllm"
    preload: Annotated[tuple[ModelId, ...], Meta(description="ids of models to load at start")] = ()
    stall_s: Annotated[
        float, Meta(gt=0), Meta(description="with work and without a token for so long, an engine is taken for hung")
    ] = 120.0
    load_deadline_s: Annotated[float, Meta(gt=0), Meta(description="for one load")] = 900.0
    drain_s: Annotated[Seconds, Meta(description="for open requests before a model is unloaded")] = 120.0
    turn_guard_s: Annotated[Seconds, Meta(description="for which a fresh replica is not evicted")] = 5.0
    sim: SimTable = SimTable()


class DeviceEntry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    id: Annotated[
        str,
        Meta(pattern=r"^(cpu|cuda):[0-9]{1,3}\Z"),
        Meta(description="cpu:0 where there is no GPU; cuda:N to override what the driver says"),
    ]
    memory_mb: Annotated[Megabytes, Meta(description="what models may take of it")]


class NeuronConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    port: Annotated[
        Annotated[int, Meta(ge=1, le=65535)] | None, Meta(description="the original's: means listen = 127.0.0.1:port")
    ] = None
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
    if config.engine.sim.script:
        sim = structs.replace(config.engine.sim, script=str(base / config.engine.sim.script))
        config = structs.replace(config, engine=structs.replace(config.engine, sim=sim))
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
        problem = f"{table.run_dir} is longer than {RUN_DIR_BYTES} bytes"
        raise ConfigError(source, "[neuron] run_dir", problem, "sockets lie in it, whose paths end at 107 bytes")
    if not (is_loopback(table.listen) or table.token or table.insecure):
        hint = "set token_file (or NEURON_TOKEN), or insecure = true if the network is trusted"
        raise ConfigError(source, "[neuron] listen", f"{table.listen} is open to others without a token", hint)
    seen: set[str] = set()
    for number, device in enumerate(config.devices):
        if device.id in seen:
            problem = f"`{device.id}` is taken by an earlier device"
            raise ConfigError(source, f"[[devices]] #{number + 1} id", problem, TAKEN)
        seen.add(device.id)
    return structs.replace(config, neuron=table)

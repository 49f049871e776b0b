"""What the gateway says of itself: `GET /v1/models`, `/health` and `/cortex/v1/fleet`. Read by the CLI too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from cortex_core.fleet import Cost, Failure, Limit, Replica, State

FLEET_PATH = "/cortex/v1/fleet"

# On every answer, and on those that came from a replica.
REQUEST_ID_HEADER = "x-request-id"
NEURON_HEADER = "x-cortex-neuron"
MODEL_STATE_HEADER = "x-cortex-model-state"  # warm, or cold: this request waited for a load
SIMULATED_HEADER = "x-cortex-simulated"  # present, and true, when no real engine computed the answer


class Location(Struct, frozen=True, kw_only=True):
    """A replica, as the list of models shows it."""

    neuron: str
    state: State
    vram_mb: int
    phase: str = ""  # while loading
    progress: float = 0.0  # 0 to 1, while loading
    simulated: bool = False


class Model(Struct, frozen=True, kw_only=True):
    """An entry of `GET /v1/models`: OpenAI's four fields, and where the model is or could be.

    Absent limits and cost are unknown.
    """

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "cortex"
    loaded: bool
    feasible_on: tuple[str, ...] = ()  # neurons that could hold it, whatever they hold now
    locations: tuple[Location, ...] = ()
    capabilities: tuple[str, ...] = ()
    limit: Limit | UnsetType = UNSET
    cost: Cost | UnsetType = UNSET
    max_model_len: int | UnsetType = UNSET
    max_input_tokens: int | UnsetType = UNSET
    max_output_tokens: int | UnsetType = UNSET


class ModelList(Struct, frozen=True, kw_only=True):
    """`GET /v1/models`."""

    object: Literal["list"] = "list"
    data: tuple[Model, ...] = ()


class DeviceView(Struct, frozen=True, kw_only=True):
    """A device and its memory, in MB: what it has, what its replicas hold, what strangers use, what is free."""

    id: str
    name: str
    kind: str
    memory_mb: int
    held_mb: int
    others_mb: int
    free_mb: int
    utilization: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None


class NeuronView(Struct, frozen=True, kw_only=True):
    name: str
    endpoint: str
    up: bool
    problem: str = ""  # why it is not up
    instance_id: str = ""
    build: str = ""
    cordoned: bool = False
    simulated: bool = False
    devices: tuple[DeviceView, ...] = ()
    replicas: tuple[Replica, ...] = ()
    failures: tuple[Failure, ...] = ()


class Waiting(Struct, frozen=True):
    """Requests for one model that hold no lease yet."""

    waiters: int
    oldest_wait_s: float


class FleetView(Struct, frozen=True, kw_only=True):
    """`GET /cortex/v1/fleet`: the whole picture that this gateway decides on."""

    version: str
    gateway: str  # its id, new at each start
    uptime_s: float
    neurons: tuple[NeuronView, ...] = ()
    models: tuple[Model, ...] = ()
    waiting: Mapping[str, Waiting] = {}


class NeuronCount(Struct, frozen=True):
    healthy: int
    total: int


class GatewayHealth(Struct, frozen=True, kw_only=True):
    """`GET /health`. Impaired: some neurons do not answer; degraded: none does."""

    status: Literal["ok", "impaired", "degraded"]
    version: str
    neurons: NeuronCount
    problems: tuple[str, ...] = ()

"""What the gateway says of itself, and how it is steered: `/v1/models`, `/health`, `/cortex/v1/…`. Read by the CLI."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from cortex_core.fleet import Cost, Failure, Limit, ModelId, NeuronName, Replica, State
from cortex_core.neuron_api import Seconds

FLEET_PATH = "/cortex/v1/fleet"
EXPLAIN_PATH = "/cortex/v1/explain"
LOAD_PATH = "/cortex/v1/load"
UNLOAD_PATH = "/cortex/v1/unload"
PIN_PATH = "/cortex/v1/pin"
CORDON_PATH = "/cortex/v1/cordon"

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


class Status(Struct, frozen=True):
    """llama.cpp's word on a model."""

    value: Literal["loaded", "loading", "unloaded", "sleeping"]


class Meta(Struct, frozen=True):
    """llama.cpp's word on a checkpoint."""

    n_ctx_train: int


class Model(Struct, frozen=True, kw_only=True):
    """An entry of `GET /v1/models`: OpenAI's four fields, where the model is or could be, and llama.cpp's fields.

    Absent limits and cost are unknown. `created` is 0: nobody knows, and a time of ours would change with each start.
    """

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "cortex"
    root: str | UnsetType = UNSET  # of an alias: the model
    parent: str | UnsetType = UNSET
    loaded: bool
    status: Status = Status("unloaded")
    feasible_on: tuple[str, ...] = ()  # neurons that could hold it, whatever they hold now
    locations: tuple[Location, ...] = ()
    capabilities: tuple[str, ...] = ()
    limit: Limit | UnsetType = UNSET
    cost: Cost | UnsetType = UNSET
    max_model_len: int | UnsetType = UNSET
    max_input_tokens: int | UnsetType = UNSET
    max_output_tokens: int | UnsetType = UNSET
    meta: Meta | UnsetType = UNSET


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


class Room(Struct, frozen=True, kw_only=True):
    """A device as a decision saw it, in MB."""

    id: str
    memory_mb: int
    free_mb: int
    must_leave: tuple[str, ...] = ()  # models
    kept: tuple[tuple[str, str], ...] = ()  # (model, why it stays)


class Place(Struct, frozen=True, kw_only=True):
    """A neuron as a place for a model: how, or why not."""

    neuron: str
    possible: bool  # now, or once something is idle
    now: bool
    reason: str
    need_mb: int
    devices: tuple[Room, ...] = ()
    must_leave: tuple[str, ...] = ()
    price: float = 0.0  # of those who would leave, by the strategy; less is better. `cost`: seconds to bring them back


class ExplainRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST /cortex/v1/explain`: what would happen to a request of the model that came now."""

    model: ModelId
    session: str = ""


class Explanation(Struct, frozen=True, kw_only=True):
    """A decision that was not carried out."""

    model: str
    outcome: Literal["served", "queued", "joins a load", "loads", "waits", "refused"]
    reason: str
    neuron: str = ""
    after_s: float = 0.0  # about
    must_leave: tuple[str, ...] = ()  # models
    error: str = ""  # the kind, when it is refused
    places: tuple[Place, ...] = ()


class LoadCommand(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST /cortex/v1/load`: answered when it serves. With `dry_run` by what would be done."""

    model: ModelId
    neuron: NeuronName | None = None
    dry_run: bool = False


class UnloadCommand(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST /cortex/v1/unload`: after its requests have ended, or, with `now`, cutting them."""

    model: ModelId
    neuron: NeuronName | None = None
    now: bool = False
    drain_s: Seconds = 120.0


class PinCommand(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST /cortex/v1/pin`: keep it loaded there, or, with `pinned: false`, no longer. Kept over restarts."""

    model: ModelId
    neuron: NeuronName | None = None  # absent: wherever it is loaded
    pinned: bool = True


class CordonCommand(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST /cortex/v1/cordon`: no new requests and no loads there, or, with `cordoned: false`, as before."""

    neuron: NeuronName
    cordoned: bool = True
    reason: str = ""


class Done(Struct, frozen=True, kw_only=True):
    """What a command did, on each neuron that it touched."""

    model: str = ""
    neurons: tuple[str, ...] = ()
    seconds: float = 0.0
    let_go: tuple[str, ...] = ()  # models

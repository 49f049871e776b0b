"""The contract between gateway and neuron: what goes over the wire, and the handshake.

Reports carry whole objects with a `seq`, so a lost one is healed by the next. Commands carry an operation id and
the versions they were decided on; a neuron whose state has moved on refuses with what it is now.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from cortex_core.fleet import Checkpoint, Demand, Device, Failure, Known, ModelId, Profile, Replica, Share

API = 1
API_HEADER = "x-cortex-api"
FEATURES = ("load", "unload", "evict", "sleep", "events")

# Head of a request to /v1/…: judged before its body is read.
REQUEST_ID = "x-cortex-request-id"  # the gateway's, one for all attempts of a request
GATEWAY = "x-cortex-gateway"
INSTANCE = "x-cortex-instance"
REPLICA = "x-cortex-replica"
PRIORITY = "x-cortex-priority"
DEADLINE_S = "x-cortex-deadline-s"

HEARTBEAT_S = 1.0
HEARTBEAT_LEAST_S = 0.1  # between two: one comes sooner when a replica has become idle
SILENCE_S = 5.0  # no byte for so long, and a fresh connect fails: the neuron is down

OperationId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._\-]{0,64}\Z")]
Seconds = Annotated[float, Meta(ge=0)]
Executed = Literal["no", "yes", "unknown"]
Retry = Literal["here", "elsewhere", "never"]


def speaks(theirs: str | None) -> bool:
    """Whether a peer that sent this `x-cortex-api` can be talked to. Without the header it is curl, and welcome."""
    return theirs is None or theirs.strip() == str(API)


class Version(Struct, frozen=True, kw_only=True):
    """`GET /version`."""

    build: str
    api: tuple[int, ...] = (API,)
    features: tuple[str, ...] = FEATURES
    name: str = ""
    instance_id: str = ""


class EngineInfo(Struct, frozen=True, kw_only=True):
    """An engine that a neuron can run, or why it cannot."""

    kind: str  # vllm or sim
    version: str = ""
    ready: bool = False
    problem: str = ""
    simulated: bool = False


class Discovery(Struct, frozen=True, kw_only=True):
    """`GET /discovery`: the hardware and what lies on it."""

    name: str
    instance_id: str
    hostname: str
    os: str
    kernel: str = ""
    python: str = ""
    driver_version: str = ""
    cuda_version: str = ""
    cuda_unavailable_reason: str = ""
    devices: tuple[Device, ...] = ()
    engines: tuple[EngineInfo, ...] = ()
    models_dir: str = ""
    checkpoints: tuple[Checkpoint, ...] = ()
    host_memory_mb: int = 0
    disk_mb: int = 0  # of the model folder's file system


class Report(Struct, frozen=True, kw_only=True):
    """`GET /models`, and the `snapshot` event: all that a gateway believes of a neuron."""

    name: str
    instance_id: str
    seq: int
    build: str = ""
    devices: tuple[Device, ...] = ()
    replicas: tuple[Replica, ...] = ()
    checkpoints: tuple[Checkpoint, ...] = ()
    known: tuple[Known, ...] = ()
    failures: tuple[Failure, ...] = ()
    demand: Mapping[str, Mapping[str, Demand]] = {}  # gateway → model → what it has waiting
    pins: Mapping[str, bool] = {}  # an operator's word on a model
    cordoned: bool = False
    simulated: bool = False


class ReplicaHealth(Struct, frozen=True, kw_only=True):
    id: str
    model: str
    state: str
    ok: bool
    reason: str = ""
    in_flight: int = 0
    queue: int = 0
    since_progress_s: float = 0.0  # since its engine last gave a token, while it has work


class Health(Struct, frozen=True, kw_only=True):
    """`GET /health`: the truth about recent progress, not about process existence."""

    status: Literal["ok", "starting", "impaired"]
    name: str
    instance_id: str
    uptime_s: float
    problems: tuple[str, ...] = ()
    engines: tuple[EngineInfo, ...] = ()
    devices: tuple[Device, ...] = ()
    replicas: tuple[ReplicaHealth, ...] = ()
    rss_mb: float = 0.0
    host_available_mb: int = 0  # of the host's memory, without swapping
    disk_free_mb: int = 0  # of the model folder's file system


class ReplicaEvent(Struct, frozen=True, kw_only=True):
    """A replica as it is now; state `absent` or `failed`: it left the list."""

    seq: int
    replica: Replica


class Gauges(Struct, frozen=True, kw_only=True):
    """The heartbeat: what changes all the time and is too cheap for events of its own."""

    seq: int
    in_flight: Mapping[str, int] = {}  # replica id → requests
    queue: Mapping[str, int] = {}
    idle_s: Mapping[str, float] = {}
    evictable_in_s: Mapping[str, float] = {}
    devices: tuple[Device, ...] = ()


class DemandEvent(Struct, frozen=True, kw_only=True):
    """What all gateways have waiting, as it is now."""

    seq: int
    demand: Mapping[str, Mapping[str, Demand]] = {}


class FinishedEvent(Struct, frozen=True, kw_only=True):
    """Exact usage of one request, told to the gateway whose it was, also of one cut short."""

    seq: int
    gateway: str
    request_id: str
    model: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    outcome: str
    seconds: float


class Victim(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A replica that a load may let go, as the gateway saw it when it decided."""

    replica: str
    version: int
    mode: Literal["idle", "drain"] = "idle"
    drain_s: Seconds = 120.0


class LoadRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST /models/load`: one swap. `model_id` is the original's spelling of `model`."""

    operation_id: OperationId = ""
    instance_id: str = ""
    model: ModelId | None = None
    model_id: ModelId | None = None
    profile: Profile | None = None
    placement: tuple[Share, ...] = ()  # empty: the neuron fits it
    evict: tuple[Victim, ...] = ()
    deadline_s: Seconds = 0.0  # of the caller's wait; 0: as long as the load may take
    wait: bool = True
    replace: bool = False


class UnloadRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST /models/unload`: by replica and version, or by model as the original did."""

    operation_id: OperationId = ""
    replica: str = ""
    version: int | None = None
    model_id: ModelId | None = None
    mode: Literal["idle", "drain", "cut"] = "idle"
    drain_s: Seconds = 120.0
    wait: bool = True


class SleepRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST /models/sleep` and `/models/wake`: weights in host memory (1), or nowhere but on the disk (2).

    A load of a model that sleeps wakes it, with evictions where it needs them; of two levels only `sleep` asks.
    """

    operation_id: OperationId = ""
    replica: str
    version: int | None = None
    level: Annotated[int, Meta(ge=1, le=2)] = 1


class PinRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST /models/pin`."""

    operation_id: OperationId = ""
    model: ModelId
    pinned: bool = True


class CordonRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST /cordon` and `/uncordon`."""

    operation_id: OperationId = ""
    reason: str = ""
    drain_s: Seconds = 120.0


class DemandRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST /demand`: lives three seconds."""

    gateway: str
    models: Mapping[str, Demand]


class Operation(Struct, frozen=True, kw_only=True):
    """`GET /operations/{id}`, the answer of a command, and each event of its progress."""

    id: str
    kind: Literal["load", "unload", "sleep", "wake", "pin", "cordon"]
    status: Literal["running", "done", "failed", "cancelled"]
    model: str = ""
    phase: str = ""
    progress: float = 0.0
    seconds: float = 0.0
    replica: Replica | None = None  # what it is about, as it is now
    joined: bool = False  # it was under way already
    error: Refusal | None = None


class Refusal(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a neuron will not: with what it was asked about, so that the caller decides again on truth."""

    code: str
    message: str
    executed: Executed = "no"
    retry: Retry = "never"
    retry_in_s: float = 0.0
    field: str = ""
    need_mb: int = 0
    free_mb: int = 0
    instance_id: str = ""
    replicas: tuple[Replica, ...] = ()  # what it was about, as they are now
    failure: Failure | None = None  # of a load: its scope says where else to try
    details: Mapping[str, Any] = {}


class RefusalBody(Struct, frozen=True):
    """The body of every refusal of a neuron."""

    error: Refusal


REFUSALS: Mapping[str, tuple[int, Retry]] = {
    # of commands
    "bad_request": (422, "never"),
    "unauthorized": (401, "never"),
    "not_found": (404, "never"),
    "method_not_allowed": (405, "never"),
    "body_too_large": (413, "never"),
    "unsupported_api": (426, "never"),
    "unsupported": (501, "never"),
    "outrun": (409, "elsewhere"),
    "busy": (409, "elsewhere"),
    "drain_timeout": (409, "elsewhere"),
    "model_cannot_fit": (400, "never"),
    "insufficient_memory": (503, "elsewhere"),
    "engine_unavailable": (503, "elsewhere"),
    "load_failed": (503, "elsewhere"),
    "cancelled": (409, "elsewhere"),
    "deadline": (504, "here"),
    # of requests
    "loading": (503, "here"),
    "full": (503, "here"),
    "waking": (503, "here"),
    "not_loaded": (409, "elsewhere"),
    "draining": (409, "elsewhere"),
    "sleeping": (409, "elsewhere"),
    "cordoned": (409, "elsewhere"),
    "failed": (409, "elsewhere"),
    "context_exceeded": (400, "never"),
    "duplicate": (409, "never"),
    "engine_died": (502, "elsewhere"),
    "shutting_down": (503, "elsewhere"),
    "internal": (500, "never"),
}
"""Every code of a refusal: its HTTP status, and where trying again may help."""

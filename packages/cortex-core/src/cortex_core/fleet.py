"""The fleet's vocabulary as immutable values.

A neuron reports these and the gateway keeps them; neither side ever changes one in place.
Megabytes are 2**20 bytes. Ages and waits are seconds relative to the report, since hosts' clocks differ.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

MEBIBYTE = 1 << 20

ModelId = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@+\-]{0,99}(/[A-Za-z0-9][A-Za-z0-9._:@+\-]{0,99})?\Z",
        title="a model id: letters, digits and ._:@+- in at most two parts with a slash between",
    ),
]
Startup = Literal["fast", "balanced", "max"]
"""What a load takes its time for: the first token, tokens for long after, or something of both."""
NeuronName = Annotated[
    str,
    Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._\-]{0,63}\Z", title="a name of letters, digits and ._- (64 at most)"),
]
Count = Annotated[int, Meta(ge=0)]


class State(enum.StrEnum):
    """Where a replica stands. The neuron's `lifecycle` holds the table of what may follow what."""

    ABSENT = "absent"  # gone, or never there
    LOADING = "loading"  # its engine is being started
    READY = "ready"  # it takes requests
    DRAINING = "draining"  # its gate is closed; requests that hold a lease go on
    SLEEPING = "sleeping"  # its weights wait in host memory
    WAKING = "waking"
    UNLOADING = "unloading"  # its engine is being ended; its memory is not free yet
    FAILED = "failed"  # it is gone and the reason is kept
    RECOVERING = "recovering"  # its engine died and is being started again


HOLDS_MEMORY = frozenset(State) - {State.ABSENT, State.FAILED}


class Limit(Struct, frozen=True, forbid_unknown_fields=True):
    """Tokens a request may use; 0: what the engine says."""

    context: Annotated[Count, Meta(description="prompt and answer together")] = 0
    input: Annotated[Count, Meta(description="prompt")] = 0
    output: Annotated[Count, Meta(description="answer")] = 0


class Cost(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """US dollars for a million tokens. Absent is unknown, which is not 0.0."""

    input: Annotated[float | None, Meta(description="prompt tokens")] = None
    output: Annotated[float | None, Meta(description="answered tokens")] = None
    cache_read: Annotated[float | None, Meta(description="prompt tokens found in the cache")] = None
    cache_write: Annotated[float | None, Meta(description="prompt tokens put into the cache")] = None


class Replicas(Struct, frozen=True, forbid_unknown_fields=True):
    """How many of a model are kept, and how many there may be when its queue grows."""

    min: Annotated[int, Meta(ge=0, le=64), Meta(description="kept loaded while there is free memory")] = 0
    max: Annotated[int, Meta(ge=1, le=64), Meta(description="at most so many when its queue grows")] = 1


class Profile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, dict=True):
    """What models.toml says of a model."""

    id: Annotated[
        ModelId, Meta(description="the name that clients use, and by default the folder under the neurons' models_dir")
    ]
    source: Annotated[str, Meta(description="the folder under models_dir, where it is not the id")] = ""
    vram_mb: Annotated[
        Count, Meta(description="what it needs on each device, as a first guess; 0: computed, then measured")
    ] = 0
    min_devices: Annotated[int, Meta(ge=1, le=64), Meta(description="tensor parallel over so many like devices")] = 1
    min_device_vram_mb: Annotated[Count, Meta(description="on no smaller device")] = 0
    pinned_on: Annotated[tuple[NeuronName, ...], Meta(description="neurons on which it stays loaded")] = ()
    residency_priority: Annotated[
        Count | None,
        Meta(description="higher may displace lower with strategy priority; without: 100, or 1000 where it is pinned"),
    ] = None
    replicas: Annotated[Replicas, Meta(description="how many of it at once")] = Replicas()
    ttl_s: Annotated[float, Meta(ge=0), Meta(description="unloaded when idle for so long; 0: never")] = 0.0
    max_in_flight: Annotated[Count, Meta(description="requests at once; 0: from the size of the KV cache")] = 0
    max_queue_depth: Annotated[Count, Meta(description="requests waiting at the replica, for each gateway")] = 8
    limit: Annotated[Limit, Meta(description="tokens of a request; 0: what the engine says")] = Limit()
    cost: Annotated[Cost, Meta(description="US dollars for a million tokens; absent is unknown, which is not 0.0")] = (
        Cost()
    )
    capabilities: Annotated[
        tuple[str, ...], Meta(description="what the model list tells; empty: what the checkpoint says")
    ] = ()
    defaults: Annotated[
        dict[str, Any],
        Meta(description="request parameters where the client gives none, such as { temperature = 0.6 }"),
    ] = {}
    startup: Annotated[
        Startup,
        Meta(description="fast: the first token soonest, nothing compiled; max: every graph captured, tokens fastest"),
    ] = "balanced"
    adapters: Annotated[
        dict[ModelId, ModelId], Meta(description="LoRA adapters: a model's name and its folder under models_dir")
    ] = {}
    engine: Annotated[dict[str, Any], Meta(description="any of vLLM's engine options; the neuron checks them")] = {}

    @property
    def priority(self) -> int:
        """Residency priority: higher may displace lower; a pinned profile ranks above all that say nothing."""
        if self.residency_priority is not None:
            return self.residency_priority
        return 1000 if self.pinned_on else 100

    @cached_property
    def digest(self) -> str:
        """Of what decides how the engine runs: two profiles of one digest are served by the same replica.

        `startup` is of it, for what was learned (how long a load takes, what it needs, that it fails) holds for one.
        """
        what = {
            "source": self.source or self.id,
            "startup": self.startup,
            "adapters": self.adapters,
            "engine": self.engine,
        }
        options = msgspec.json.encode(what, order="deterministic")
        return hashlib.blake2b(options, digest_size=8).hexdigest()


class Device(Struct, frozen=True, kw_only=True):
    """One accelerator, or the host's processor where there is none."""

    id: str  # "cuda:0", "cpu:0"
    name: str = ""
    kind: str = "cpu"  # cuda or cpu
    memory_mb: Count
    used_by_others_mb: Count = 0
    compute_capability: str = ""
    utilization: float | None = None  # 0 to 1
    temperature_c: float | None = None
    power_w: float | None = None


class Share(Struct, frozen=True):
    """What a replica takes of one device."""

    id: str
    memory_mb: Count


class ModelFacts(Struct, frozen=True, kw_only=True):
    """What translating a request between dialects needs to know of a model.

    The defaults suit a model of which nothing is known: what they send, every chat template takes.
    """

    context: Count = 0  # tokens; 0: unknown
    vision: bool = True  # images are kept unless it is known to be blind
    system_first: bool = True  # its template takes a system message at the very front only
    accepts_developer: bool = False  # its template knows the role developer
    reasoning: bool = False  # the engine has a reasoning parser for it
    thinking_toggle: Literal["", "none", "low"] = ""  # the reasoning_effort that ends its thinking, or is the least
    thinking_budget: bool = False  # the engine can end its thinking after a number of tokens
    tools: bool = True  # the engine has a tool parser for it
    fetches_urls: bool = False  # the neuron may fetch images


class Replica(Struct, frozen=True, kw_only=True):
    """A model on a neuron."""

    id: str  # unique for ever
    version: int  # rises with each structural change
    model: str
    digest: str
    state: State
    devices: tuple[Share, ...] = ()
    reason: str = ""
    phase: str = ""
    progress: float = 0.0  # 0 to 1, while loading
    expected_s: float = 0.0  # until ready, while loading
    in_flight: int = 0
    queue: int = 0
    max_in_flight: int = 0
    max_queue_depth: int = 0
    context: int = 0  # tokens
    kv_tokens: int = 0
    tasks: tuple[str, ...] = ()
    facts: ModelFacts | None = None  # once it is loaded
    adapters: tuple[str, ...] = ()  # models that it serves besides its own
    pinned: bool = False
    tier: Literal["running", "asleep", ""] = ""
    evictable_in_s: float = 0.0
    idle_s: float = 0.0  # since its last request ended, or since it was ready
    load_s: float = 0.0  # what its load took
    simulated: bool = False

    @property
    def holds_memory(self) -> bool:
        return self.state in HOLDS_MEMORY

    def memory_on(self, device: str) -> int:
        return sum(share.memory_mb for share in self.devices if share.id == device) if self.holds_memory else 0


class Checkpoint(Struct, frozen=True, kw_only=True):
    """A model that lies in a neuron's model folder."""

    name: str  # the folder, relative to models_dir
    architecture: str = ""
    weights_mb: Count = 0
    need_mb: Count = 0  # weights, overhead and a sensible KV cache, on one device
    context: Count = 0
    kv_bytes_per_token: float = 0.0
    problem: str = ""  # why it cannot be served


class Known(Struct, frozen=True, kw_only=True):
    """What a neuron learned of a model, kept over restarts."""

    model: str
    digest: str
    device_kind: str
    load_s: float = 0.0
    wake_s: float = 0.0
    weights_mb: Count = 0
    overhead_mb: Count = 0
    kv_tokens: Count = 0
    facts: ModelFacts | None = None
    uses: float = 0.0  # exponentially weighted, all gateways together


class Failure(Struct, frozen=True, kw_only=True):
    """A load that failed, and until when nobody should try it again."""

    model: str
    digest: str
    scope: Literal["model", "device", "neuron"]
    code: str
    message: str = ""
    count: int = 1
    retry_in_s: float = 0.0


class Demand(Struct, frozen=True):
    """What a gateway has waiting for one model, as it told a neuron."""

    waiters: Count
    oldest_wait_s: Annotated[float, Meta(ge=0)] = 0.0


class Neuron(Struct, frozen=True, kw_only=True):
    """One host, as its last report and our own connection to it tell."""

    name: str
    endpoint: str = ""
    up: bool = False
    instance_id: str = ""
    seq: int = -1
    devices: tuple[Device, ...] = ()
    replicas: tuple[Replica, ...] = ()
    checkpoints: Mapping[str, Checkpoint] = {}  # by folder
    known: Mapping[tuple[str, str], Known] = {}  # by (model, digest)
    failures: tuple[Failure, ...] = ()
    demand: Mapping[str, Mapping[str, Demand]] = {}  # gateway → model → what it has waiting
    pins: Mapping[str, bool] = {}  # an operator's word on a model, over the catalogue's
    cordoned: bool = False
    simulated: bool = False
    build: str = ""
    problem: str = ""  # why it is not up, for people
    at: float = 0.0  # when this was heard, on the monotonic clock of who heard it
    ahead: frozenset[str] = frozenset()  # replicas that an answer told more of than the events so far

    def replica(self, replica_id: str) -> Replica | None:
        for replica in self.replicas:
            if replica.id == replica_id:
                return replica
        return None

    def checkpoint(self, profile: Profile) -> Checkpoint | None:
        return self.checkpoints.get(profile.source or profile.id)

    def free_mb(self, device: Device) -> int:
        """What no replica holds and no stranger uses. May be negative when a stranger took what was promised."""
        return device.memory_mb - device.used_by_others_mb - sum(r.memory_on(device.id) for r in self.replicas)


class Fleet(Struct, frozen=True, kw_only=True):
    """Every neuron and every profile: the whole picture a gateway decides on."""

    neurons: Mapping[str, Neuron] = {}
    profiles: Mapping[str, Profile] = {}
    resident: Mapping[str, tuple[tuple[str, str], ...]] = {}  # model → (neuron, replica id): an index of the neurons

    def replicas(self, model: str | None = None) -> Iterator[tuple[Neuron, Replica]]:
        """Each replica with its neuron, of one model or of all, in the order of the neurons."""
        for neuron in self.neurons.values():
            for replica in neuron.replicas:
                if model is None or replica.model == model:
                    yield neuron, replica


def check_invariants(fleet: Fleet) -> None:
    """What must hold of every fleet, whatever happened. For tests and the simulator.

    Raises:
        AssertionError: naming the neuron and what is wrong with it.
    """
    for neuron in fleet.neurons.values():
        ids = [r.id for r in neuron.replicas]
        assert len(ids) == len(set(ids)), f"{neuron.name}: a replica id twice in {ids}"
        for device in neuron.devices:
            held = sum(r.memory_on(device.id) for r in neuron.replicas)
            assert held <= device.memory_mb, f"{neuron.name}/{device.id}: {held} MB held of {device.memory_mb}"
        loading = [r.model for r in neuron.replicas if r.state is State.LOADING]
        assert len(loading) == len(set(loading)), f"{neuron.name}: a model loads twice in {loading}"
        for replica in neuron.replicas:
            assert replica.in_flight >= 0, f"{neuron.name}/{replica.id}: {replica.in_flight} in flight"

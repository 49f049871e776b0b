"""How much a model needs and where it goes: profile + checkpoint + devices → placement and engine memory. Pure.

Need = weights + overhead + KV cache. Weights are exact (safetensors headers); the overhead is a first guess until a
load has shown it; the KV cache is what one long request or several short ones need.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from cortex_core.fleet import MEBIBYTE, Checkpoint, Device, Known, Profile, Share
from neuron.sizing.cache import BATCH, BATCHES, BLOCK, STATES, UNBOUNDED, Cache, Layers
from neuron.sizing.checkpoints import Facts

OVERHEAD_MB = {"cpu": 350, "cuda": 1100}
"""Context, activations, graphs and the processes themselves, before a first load has shown what they are."""
KV_TOKENS_LEAST = 16_384  # of a cache that is not told its size: several short requests
KV_TOKENS_MOST = 32_768  # one long request; a longer context is a wish that the profile must state
CONTEXT_LEAST = 2_048  # tokens; a placement that can hold less of a longer context is not worth a load
STATES_LEAST = 4  # requests that each have room for a state
TYPICAL_TOKENS = 4_096  # of a request, to turn a cache's size into a number of requests
IN_FLIGHT_MOST = 256
KV_DTYPE_BYTES = {"fp8": 1.0, "fp8_e4m3": 1.0, "fp8_e5m2": 1.0, "bfloat16": 2.0, "float16": 2.0, "float32": 4.0}


class CannotFit(Exception):
    """No load of this model can succeed here, whoever leaves.

    Args:
        field: of the profile, where it is at fault.
    """

    def __init__(self, message: str, *, need_mb: int = 0, free_mb: int = 0, field: str = "") -> None:
        super().__init__(message)
        self.need_mb, self.free_mb, self.field = need_mb, free_mb, field


class Need(Struct, frozen=True, kw_only=True):
    """What a model takes of each of its devices."""

    weights_mb: int
    overhead_mb: int
    kv_mb: int  # wished for
    kv_least_mb: int  # without which a load is pointless
    cache: Cache
    context: int  # tokens; 0: unknown
    fixed: bool = False  # the profile says how much, so it is neither more nor less

    @property
    def memory_mb(self) -> int:
        return self.weights_mb + self.overhead_mb + self.kv_mb

    @property
    def workable_mb(self) -> int:
        """With less there is no engine worth having."""
        return self.weights_mb + self.overhead_mb + self.kv_least_mb

    @property
    def least_mb(self) -> int:
        return self.memory_mb if self.fixed else self.workable_mb


class Fit(Struct, frozen=True, kw_only=True):
    """A load, decided."""

    shares: tuple[Share, ...]
    kv_cache_mb: int  # of each device
    context: int  # tokens; 0: what the checkpoint says
    overhead_mb: int = 0  # of each device: neither weights nor cache, and so what a sleeping engine keeps


def need(
    facts: Facts, profile: Profile, *, kind: str = "cpu", known: Known | None = None, devices: int | None = None
) -> Need:
    """What the model takes of each device when it is spread over so many (by default over the profile's least)."""
    spread = devices or profile.min_devices
    overhead_mb = known.overhead_mb if known and known.overhead_mb else OVERHEAD_MB.get(kind, OVERHEAD_MB["cuda"])
    weights_mb = _megabytes(facts.weights_bytes / spread)
    cache = cache_of(facts, profile.engine, kind, spread)
    context = wanted_context(facts.context, profile)
    least = min(context or CONTEXT_LEAST, CONTEXT_LEAST)
    kv_mb = max(1, _megabytes(_wished_bytes(cache, context, profile)))
    if profile.vram_mb:
        kv_mb = profile.vram_mb - weights_mb - overhead_mb
    return Need(
        weights_mb=weights_mb,
        overhead_mb=overhead_mb,
        kv_mb=kv_mb,
        kv_least_mb=max(1, _megabytes(cache.size_for(least))),
        cache=cache,
        context=context,
        fixed=bool(profile.vram_mb),
    )


def wanted_context(context: int, profile: Profile) -> int:
    """Tokens of one request: the checkpoint's, unless the profile wants fewer."""
    wish = profile.limit.context
    return min(context, wish) if context and wish else context or wish


def _wished_bytes(cache: Cache, context: int, profile: Profile) -> float:
    """One long request, or several short ones."""
    if profile.limit.context:
        return cache.size_for(context)
    longest = min(context, KV_TOKENS_MOST) or KV_TOKENS_LEAST
    return cache.size_for(longest) * max(1, -(-KV_TOKENS_LEAST // longest)) + cache.state_bytes * (STATES_LEAST - 1)


def cache_of(facts: Facts, engine: Mapping[str, Any], kind: str = "cpu", spread: int = 1) -> Cache:
    """Of each device. A cache of few heads is copied where it cannot be divided further."""
    layers = facts.layers
    wide = str(engine.get("dtype", "auto")) in {"float32", "float"}
    value_bytes = KV_DTYPE_BYTES.get(str(engine.get("kv_cache_dtype", "auto")), 4.0 if wide else 2.0)
    value_bytes *= layers.values / (min(spread, facts.kv_heads) if facts.kv_divisible else 1)
    page_bytes = _state_bytes(layers, engine, kind, wide) / spread
    block = BLOCK * max(1, math.ceil(page_bytes / (BLOCK * value_bytes))) if value_bytes else BLOCK
    full, sliding, states = layers.padded()
    prefixes = engine.get("enable_prefix_caching", bool(value_bytes))
    wanted = engine.get("max_num_batched_tokens")
    batch = wanted if isinstance(wanted, int) and wanted > 0 else BATCH.get(kind, BATCH["cuda"])
    return Cache(
        full_bytes=full * value_bytes,
        sliding_bytes=sliding * value_bytes,
        window=layers.window,
        in_flight=batch * BATCHES.get(kind, BATCHES["cuda"]),
        block=block,
        state_bytes=states * (block * value_bytes or page_bytes) * (STATES if prefixes else 1),
    )


def _state_bytes(layers: Layers, engine: Mapping[str, Any], kind: str, wide: bool) -> float:
    """The state that one layer keeps for a request."""
    usual = 4.0 if wide or kind == "cpu" else 2.0  # which CPU kernels widen
    asked = str(engine.get("mamba_ssm_cache_dtype", "auto"))
    recurrent_bytes = KV_DTYPE_BYTES.get(layers.recurrent_dtype if asked == "auto" else asked, usual)
    return layers.convolution * (4.0 if wide else 2.0) + layers.recurrent * max(recurrent_bytes, usual)


def fit(
    facts: Facts,
    profile: Profile,
    devices: Sequence[Device],
    free_mb: Mapping[str, int],
    *,
    placement: Sequence[Share] = (),
    known: Known | None = None,
) -> Fit | Need:
    """Where the model goes, or, when there is no room *now*, what it needs.

    Args:
        free_mb: device id → what is free once the victims are gone.
        placement: decided by the caller; empty: like devices with most room, as many as the profile asks for.

    Raises:
        CannotFit: there is no room even on empty devices, or the placement or the profile makes no sense.
    """
    if placement:
        return _as_placed(facts, profile, devices, free_mb, placement, known)
    groups = _groups(profile, devices)
    if not groups:
        raise CannotFit(_no_group(profile, devices))
    best: Need | None = None
    for group in sorted(groups, key=lambda group: -min(free_mb.get(d.id, 0) for d in group)):
        wanted = need(facts, profile, kind=group[0].kind, known=known, devices=len(group))
        _check_profile(profile, wanted)
        total_mb = min(device.memory_mb for device in group)
        if wanted.least_mb > total_mb:
            continue
        best = best or wanted
        memory_mb = min(wanted.memory_mb, total_mb)
        if memory_mb <= min(free_mb.get(device.id, 0) for device in group):
            return _fitted(wanted, tuple(Share(device.id, memory_mb) for device in group))
    if best is None:
        wanted = need(facts, profile, kind=groups[0][0].kind, known=known)
        largest = max(min(device.memory_mb for device in group) for group in groups)
        text = (
            f"{profile.id} needs {wanted.least_mb} MB at least ({wanted.weights_mb} weights, {wanted.overhead_mb} "
            f"overhead, the rest KV cache) of each device, and the largest here has {largest} MB"
        )
        raise CannotFit(text, need_mb=wanted.least_mb, free_mb=largest)
    return best


def _as_placed(
    facts: Facts,
    profile: Profile,
    devices: Sequence[Device],
    free_mb: Mapping[str, int],
    placement: Sequence[Share],
    known: Known | None,
) -> Fit | Need:
    by_id = {device.id: device for device in devices}
    if len({share.id for share in placement}) < len(placement):
        raise CannotFit("a device stands twice in the placement", field="placement")
    for share in placement:
        if share.id not in by_id:
            raise CannotFit(f"there is no device {share.id} here", field="placement")
    wanted = need(facts, profile, kind=by_id[placement[0].id].kind, known=known, devices=len(placement))
    _check_profile(profile, wanted)
    shares = tuple(Share(share.id, share.memory_mb or wanted.memory_mb) for share in placement)
    for share in shares:
        total_mb = by_id[share.id].memory_mb
        if share.memory_mb > total_mb or share.memory_mb < wanted.workable_mb:
            text = f"{profile.id} needs {wanted.workable_mb} MB at least; {share.id} has {total_mb}"
            need_mb = max(wanted.workable_mb, share.memory_mb)
            raise CannotFit(f"{text} and would give {share.memory_mb}", need_mb=need_mb, free_mb=total_mb)
    if any(share.memory_mb > free_mb.get(share.id, 0) for share in shares):
        return wanted
    return _fitted(wanted, shares)


def _check_profile(profile: Profile, wanted: Need) -> None:
    if wanted.fixed and profile.vram_mb < wanted.workable_mb:
        text = (
            f"vram_mb = {profile.vram_mb} is too little for {profile.id}: {wanted.weights_mb} MB weights, "
            f"{wanted.overhead_mb} overhead and {wanted.kv_least_mb} KV cache at least"
        )
        raise CannotFit(text, need_mb=wanted.workable_mb, free_mb=profile.vram_mb, field="profile.vram_mb")


def _fitted(wanted: Need, shares: tuple[Share, ...]) -> Fit:
    """KV cache is what the smallest share leaves; the context is what that cache can hold."""
    kv_mb = min(share.memory_mb for share in shares) - wanted.weights_mb - wanted.overhead_mb
    context = wanted.context
    holds = wanted.cache.holds(kv_mb * MEBIBYTE)
    if wanted.cache.bytes_per_token and holds < UNBOUNDED:
        context = min(context, holds) if context else holds
    return Fit(shares=shares, kv_cache_mb=kv_mb, context=context, overhead_mb=wanted.overhead_mb)


def _groups(profile: Profile, devices: Sequence[Device]) -> list[list[Device]]:
    """Sets of like devices, as many in each as the profile asks for."""
    large = [device for device in devices if device.memory_mb >= profile.min_device_vram_mb]
    size = profile.min_devices
    if size == 1:
        return [[device] for device in large]
    kinds: dict[tuple[str, str, int], list[Device]] = {}
    for device in large:
        kinds.setdefault((device.kind, device.name, device.memory_mb), []).append(device)
    return [like[at : at + size] for like in kinds.values() for at in range(0, len(like) - size + 1, size)]


def _no_group(profile: Profile, devices: Sequence[Device]) -> str:
    floor = f" of {profile.min_device_vram_mb} MB or more" if profile.min_device_vram_mb else ""
    here = ", ".join(f"{device.id} ({device.memory_mb} MB)" for device in devices) or "none"
    return f"{profile.id} needs {profile.min_devices} like device(s){floor}; here: {here}"


def max_in_flight(profile: Profile, kv_tokens: int, context: int) -> int:
    """Requests at once: what the profile says, else as many typical ones as the KV cache holds."""
    if profile.max_in_flight:
        return profile.max_in_flight
    typical = min(context, TYPICAL_TOKENS) or TYPICAL_TOKENS
    return max(1, min(IN_FLIGHT_MOST, kv_tokens // typical)) if kv_tokens else IN_FLIGHT_MOST


def expected_replicas(checkpoints: Iterable[Facts], devices: Iterable[Device]) -> int:
    """How many replicas may come to share this host's processor, at least one: as many as lie here and fit together."""
    needs = [as_checkpoint(facts, "cpu").need_mb for facts in checkpoints if not facts.problem]
    room_mb = sum(device.memory_mb for device in devices)
    count = 0
    for need_mb in sorted(needs):
        room_mb -= need_mb
        if room_mb < 0:
            break
        count += 1
    return max(1, count)


def as_checkpoint(facts: Facts, kind: str, known: Known | None = None) -> Checkpoint:
    """What a gateway is told of a checkpoint: its need on one device of this neuron's kind."""
    if facts.problem:
        return Checkpoint(name=facts.name, architecture=facts.architecture, problem=facts.problem)
    wanted = need(facts, Profile(id="any"), kind=kind, known=known)
    return Checkpoint(
        name=facts.name,
        architecture=facts.architecture,
        weights_mb=wanted.weights_mb,
        need_mb=wanted.memory_mb,
        context=facts.context,
        kv_bytes_per_token=wanted.cache.bytes_per_token,
    )


def _megabytes(count: float) -> int:
    """Rounded up: a share that is a byte too small fails a load."""
    return -int(-count // MEBIBYTE)

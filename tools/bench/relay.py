"""`bench relay`: our gateway with everything on, beside its peers, before a mock that costs next to nothing.

Rounds are interleaved (ours, a peer, the next, ours again …), each figure is its median over the rounds, and each ratio
the median of the rounds' ratios: what else the machine does at the time hits all of them.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tools.bench.cores import cores
from tools.bench.load import Failed, Load
from tools.bench.mock import ALIAS, THOUGHTS, Mock, messages, request, responses
from tools.bench.native import Missing
from tools.bench.outcome import Figures, Outcome
from tools.bench.peers import PEERS
from tools.bench.processes import rss_mb
from tools.bench.systems import DIRECT, DOUBLE, OURS, Stage, System
from tools.runner.children import Children
from tools.runner.environment import variables
from tools.runner.report import Line, say, step

CONNECTIONS = 32
PACED_STREAMS, PACED_INTERVAL_US = 64, 10_000  # 100 tokens a second each
FIXED_RATE = 200  # requests a second, at which added TTFT is read
STEADY_LONGER = 3
STEADY_RATE = 2000  # JSON requests a second, which one process carries: each then comes by itself
WAITING = 256  # connections that such a system may need at once
OPEN_STREAMS = 1000
HOLD_TOKENS, HOLD_INTERVAL_US = 60, 1_000_000

JSON = request()
PLAIN = request(stream=True, usage=True)  # bytes go through as they are
SPLICED = {
    "spliced": request(stream=True),  # this client did not ask for usage: ours needs it, and takes it out again
    "alias": request(model=ALIAS, stream=True, usage=True),  # every event must bear the name that was asked for
    "reasoning": request(words=THOUGHTS, stream=True, usage=True),  # thoughts get the second name that clients read
}

TRANSLATED = {"messages": messages(), "responses": responses()}  # from the engine's chat stream, by ours alone

MEASURES = ("json", "steady", "plain", *SPLICED, "translated", "paced", "fixed_rate", "memory")


@dataclass(frozen=True, slots=True)
class Plan:
    seconds: float = 2.0  # of each run
    rounds: int = 3
    open_streams: int = OPEN_STREAMS
    peers: tuple[str, ...] = tuple(PEERS)
    measures: tuple[str, ...] = MEASURES
    double: bool = True  # ours a second time, as two processes on one port


def run(plan: Plan) -> Outcome:
    """Measure everything.

    Raises:
        Missing: no compiler, or our own gateway does not start.
        Failed: our own gateway answered wrongly.
    """
    where = cores()
    outcome = Outcome(where)
    with (
        tempfile.TemporaryDirectory(prefix="cortex-bench-") as temporary,
        Children(Path(temporary), variables()) as children,
    ):
        folder = Path(temporary)
        stage = Stage(children, folder, where)
        systems = _systems(stage, plan, outcome)
        bench = _Bench(stage.mock, Load(folder, where), plan)
        for number in range(plan.rounds):
            with step(f"round {number + 1} of {plan.rounds}") as line:
                outcome.rounds.append(bench.round(systems, number, line))
                line.detail = ""
        if "memory" in plan.measures:
            with step(f"memory with {plan.open_streams} open streams"):
                bench.memory(systems, outcome.rounds[-1])
        outcome.left_out += bench.failed
    return outcome


def _systems(stage: Stage, plan: Plan, outcome: Outcome) -> list[System]:
    systems = [stage.ours(), stage.direct()]
    if plan.double:
        systems.append(stage.ours(DOUBLE, processes=2))
    for name in plan.peers:
        try:
            systems.append(stage.peer(PEERS[name]))
        except Missing as missing:
            outcome.left_out.append(str(missing))
            say(f"  ! left out: {missing}")
    outcome.versions = {system.name: system.version for system in systems if system.name not in (DIRECT, DOUBLE)}
    return systems


class _Bench:
    """The measurements. A peer that fails one is told of in `failed`, once, and lacks that figure."""

    def __init__(self, mock: Mock, load: Load, plan: Plan) -> None:
        self._mock = mock
        self._load = load
        self._seconds = plan.seconds
        self._plan = plan
        self._failed: dict[tuple[str, str], str] = {}  # by system and measure

    def round(self, systems: list[System], number: int, line: Line) -> dict[str, Figures]:
        """Each measurement on each system in turn; each round begins with another system."""
        figures: dict[str, Figures] = defaultdict(dict)
        turn = number % len(systems)
        for name, measure in self._measures().items():
            for system in systems[turn:] + systems[:turn]:
                line.detail = f"{name}, {system.name}"
                try:
                    figures[system.name] |= measure(system)
                except Failed as failed:
                    self._fail(system, name, failed)
        _subtract_direct(figures)
        _compare_translated(figures[OURS])
        return figures

    def memory(self, systems: list[System], into: Mapping[str, Figures]) -> None:
        """Last of all, since what a process has taken it may keep."""
        for system in systems:
            if system.name == DIRECT or system.slow:
                continue
            self._mock.pace(HOLD_TOKENS, HOLD_INTERVAL_US)
            try:
                held_mb = self._load.rss_mb_with_open(system, PLAIN, self._plan.open_streams)
            except Failed as failed:
                self._fail(system, "memory", failed)
                continue
            into[system.name]["rss_mb"] = held_mb
        self._mock.pace()

    def _measures(self) -> dict[str, Callable[[System], Figures]]:
        every: dict[str, Callable[[System], Figures]] = {
            "json": self._json,
            "steady": self._steady,
            "plain": self._plain,
            **{name: partial(self._spliced, name) for name in SPLICED},
            "translated": self._translated,
            "paced": self._paced,
            "fixed_rate": self._fixed_rate,
        }
        return {name: measure for name, measure in every.items() if name in self._plan.measures}

    @property
    def failed(self) -> list[str]:
        return list(self._failed.values())

    def _fail(self, system: System, name: str, failed: Failed) -> None:
        if system.name == OURS:
            raise failed
        self._failed[system.name, name] = f"{name}: {failed}"

    def _json(self, system: System) -> Figures:
        ran = self._load.run(system, JSON, CONNECTIONS, self._seconds)
        return {"json_per_s": ran.requests_per_s, "json_cpu_us": ran.cpu_us_per_request}

    def _steady(self, system: System) -> Figures:
        if system.slow:
            return {}
        # Far below what it can carry a second holds few requests, and how they fall together differs: so it is longer.
        ran = self._load.run(system, JSON, WAITING, STEADY_LONGER * self._seconds, "rate", str(STEADY_RATE))
        return {"steady_cpu_us": ran.cpu_us_per_request}

    def _plain(self, system: System) -> Figures:
        ran = self._load.run(system, PLAIN, CONNECTIONS, self._seconds, "stream")
        return {
            "streams_per_s": ran.requests_per_s,
            "chunks_per_s": ran.events_per_s,
            "stream_cpu_us": ran.cpu_us_per_request,
            "chunk_cpu_us": ran.cpu_us_per_event,
            "busy_ttft_p50_ms": ran.ttft_p50_ms,
            "busy_ttft_p99_ms": ran.ttft_p99_ms,
            "idle_rss_mb": rss_mb(system.pids),
        }

    def _spliced(self, name: str, system: System) -> Figures:
        ran = self._load.run(system, SPLICED[name], CONNECTIONS, self._seconds, "stream")
        return {f"{name}_per_s": ran.requests_per_s, f"{name}_cpu_us": ran.cpu_us_per_request}

    def _translated(self, system: System) -> Figures:
        figures: Figures = {}
        if system.name == OURS:
            for dialect, body in TRANSLATED.items():
                ran = self._load.run(system, body, CONNECTIONS, self._seconds, "stream", "path", f"/v1/{dialect}")
                figures[f"{dialect}_per_s"] = ran.requests_per_s
                figures[f"{dialect}_cpu_us"] = ran.cpu_us_per_request
        return figures

    def _paced(self, system: System) -> Figures:
        if system.slow:
            return {}
        self._mock.pace(max(1, int(self._seconds * 1e6 / PACED_INTERVAL_US)), PACED_INTERVAL_US)
        spread_ms = str(PACED_INTERVAL_US / 1000)  # so that the streams' tokens come evenly, and not all at once
        options = ("stream", "spread", spread_ms)
        try:
            ran = self._load.run(system, PLAIN, PACED_STREAMS, self._seconds, *options)
        finally:
            self._mock.pace()
        return {"paced_cpu_us": ran.cpu_us_per_event}

    def _fixed_rate(self, system: System) -> Figures:
        if system.slow:
            return {}
        ran = self._load.run(system, PLAIN, WAITING, self._seconds, "stream", "rate", str(FIXED_RATE))
        return {"ttft_p50_ms": ran.ttft_p50_ms, "ttft_p99_ms": ran.ttft_p99_ms}


def _compare_translated(figures: Figures) -> None:
    """The rate of translated streams as a share of the plain ones' in the same round."""
    for dialect in TRANSLATED:
        if "streams_per_s" in figures and f"{dialect}_per_s" in figures:
            figures[f"{dialect}_share"] = figures[f"{dialect}_per_s"] / figures["streams_per_s"]


def _subtract_direct(figures: dict[str, Figures]) -> None:
    """TTFT as what a system adds to the mock's own, measured in the same round."""
    direct = figures[DIRECT]
    for name, of_system in figures.items():
        for quantile in ("p50", "p99"):
            key = f"ttft_{quantile}_ms"
            if name != DIRECT and key in of_system and key in direct:
                of_system[f"added_{key}"] = of_system[key] - direct[key]
    for key in ("json_cpu_us", "steady_cpu_us"):
        direct.pop(key, None)

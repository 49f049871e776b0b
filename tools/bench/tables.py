"""What is shown of an outcome: which figures, in which order, and what they must be."""

from __future__ import annotations

from dataclasses import dataclass

from tools.bench import large, neuron, relay
from tools.bench.cores import machine
from tools.bench.outcome import Outcome
from tools.bench.report import Table, mark, number
from tools.bench.systems import DIRECT, DOUBLE, OURS

ROUTER, SMG = "vllm-router", "smg"


@dataclass(frozen=True, slots=True)
class Row:
    """A figure, its text, and what ours must be: a limit, or ratios to peers."""

    figure: str
    text: str
    more_is_better: bool = False
    limit: float | None = None
    ratios: tuple[tuple[str, float], ...] = ()  # peer → ours ÷ peer's


RELAY = (
    Row("json_per_s", "JSON requests/s", True, ratios=((ROUTER, 0.8), (SMG, 2.0))),
    Row("json_cpu_us", "CPU µs a JSON request"),
    Row("steady_cpu_us", f"CPU µs a JSON request at {relay.STEADY_RATE:,}/s"),
    Row("streams_per_s", "streams/s", True, ratios=((ROUTER, 1.0), (SMG, 1.0))),
    Row("chunks_per_s", "chunks/s", True),
    Row("stream_cpu_us", "CPU µs a stream", ratios=((ROUTER, 0.8), (SMG, 0.6))),
    Row("chunk_cpu_us", "CPU µs a chunk"),
    Row("spliced_per_s", "spliced streams/s", True),
    Row("spliced_cpu_us", "CPU µs a spliced stream", ratios=((ROUTER, 0.8), (SMG, 0.6))),
    Row("alias_per_s", "streams/s under an alias", True),
    Row("alias_cpu_us", "CPU µs a stream under an alias", ratios=((ROUTER, 0.8), (SMG, 0.6))),
    Row("reasoning_per_s", "streams/s, half of it reasoning", True),
    Row("reasoning_cpu_us", "CPU µs a stream, half of it reasoning", ratios=((ROUTER, 0.8), (SMG, 0.6))),
    Row("messages_per_s", "Messages streams/s, translated"),
    Row("messages_cpu_us", "CPU µs a Messages stream"),
    Row("messages_share", "Messages: rate ÷ the untranslated streams'", True, limit=0.6),
    Row("responses_per_s", "Responses streams/s, translated"),
    Row("responses_cpu_us", "CPU µs a Responses stream"),
    Row("responses_share", "Responses: rate ÷ the untranslated streams'", True, limit=0.6),
    Row("paced_cpu_us", "CPU µs a token, 64 streams × 100 tokens/s", limit=30.0),
    Row("added_ttft_p50_ms", "added TTFT p50 ms at 200 requests/s", limit=1.0),
    Row("added_ttft_p99_ms", "added TTFT p99 ms at 200 requests/s", limit=5.0),
    Row("busy_ttft_p50_ms", "TTFT p50 ms, saturated"),
    Row("busy_ttft_p99_ms", "TTFT p99 ms, saturated"),
    Row("idle_rss_mb", "resident MiB, 32 connections"),
    Row("rss_mb", "resident MiB, all streams open"),
)
DOUBLE_LIMIT = 1.1  # processor time a request with two processes on one port, against one, at the same rate
ONE_HOP, TWO_HOPS = 0.92, 0.86  # of stock vLLM's tokens a second, where every hop takes processor time from the engine
LARGE_HOP = 0.98  # where the engine computes, hops cost next to nothing
DAEMON_US = 30.0
NEURON_FIGURES = {
    "tokens_per_s": "tokens/s",
    "ttft_ms": "TTFT p50 ms",
    "cpu_us": "CPU µs a token, all",
    "daemon_us": "CPU µs a token, the daemon",  # with most streams: what it does besides is then next to nothing
}
NEURON_LIMITS = {  # figure → its text, its most, and how many times that stock vLLM takes at least
    "load_s": ("s from load to first token", 1.5, 10),
    "unload_s": ("s to unload", 1.0, 0),
    "up_s": ("s until a daemon answers", 1.0, 0),
    "rss_mb": ("MiB of the daemon, three models loaded", 60.0, 0),
}
MODELS_OF = {
    neuron.TINY: "the tiny model",
    neuron.LARGE: f"random weights: {large.LAYERS} layers of {large.HIDDEN}, 34 million parameters, bfloat16",
}


def relay_table(outcome: Outcome) -> Table:
    """A peer's cell holds its figure and, in brackets, ours divided by it."""
    systems = [OURS, *(name for name in outcome.rounds[0] if name not in (OURS, DIRECT)), DIRECT]
    rows = [["", *systems, "goal for ours"]]
    for row in RELAY:
        cells = [row.text]
        for system in systems:
            value, ratio = outcome.median(system, row.figure), outcome.ratio(row.figure, OURS, system)
            shows_ratio = ratio is not None and system not in (OURS, DIRECT) and "ttft" not in row.figure
            cells.append("–" if value is None else number(value) + (f" (×{ratio:.2f})" if shows_ratio else ""))
        if cells.count("–") < len(systems):
            rows.append([*cells, _goal(row, outcome)])
    return rows


def _goal(row: Row, outcome: Outcome) -> str:
    """The goal and whether it was met, as far as its peers were there."""
    verdicts = []
    if row.limit is not None:
        value = outcome.median(OURS, row.figure)
        met = value is not None and (value >= row.limit if row.more_is_better else value <= row.limit)
        verdicts.append(f"{'≥' if row.more_is_better else '≤'} {row.limit:g} {mark(met)}")
    for peer, wanted in row.ratios:
        ratio = outcome.ratio(row.figure, OURS, peer)
        if ratio is not None:
            met = ratio >= wanted if row.more_is_better else ratio <= wanted
            verdicts.append(f"{'≥' if row.more_is_better else '≤'} {wanted:g} × {peer} {mark(met)}")
    if row.figure == "steady_cpu_us" and (ratio := outcome.ratio(row.figure, DOUBLE, OURS)) is not None:
        verdicts.append(f"two processes ≤ {DOUBLE_LIMIT:g} × one {mark(ratio <= DOUBLE_LIMIT)}")
    return ", ".join(verdicts)


def relay_notes(outcome: Outcome, plan: relay.Plan) -> list[str]:
    """What must be known to read the figures."""
    said = [
        f"{machine()}; {outcome.cores}",
        f"{_versions(outcome)}; {plan.rounds} rounds of {plan.seconds:g} s a run",
        f"{relay.CONNECTIONS} connections; memory with {plan.open_streams:,} open streams",
        "a number in brackets is ours divided by that column's",
    ]
    if not outcome.cores.alone:
        said.append("only one core: the system under test shares it, so rates mean little")
    return said + [f"left out: {what}" for what in outcome.left_out]


def neuron_table(outcome: Outcome, plan: neuron.Plan) -> Table:
    """A cell of ours holds its figure and, in brackets, that divided by stock vLLM's."""
    rows = [["", neuron.STOCK, neuron.NEURON, neuron.BOTH, "goal for ours"]]
    least = (LARGE_HOP, LARGE_HOP) if plan.model == neuron.LARGE else (ONE_HOP, TWO_HOPS)
    for figure, text in NEURON_FIGURES.items():
        for streams in plan.streams[-1:] if figure == "daemon_us" else plan.streams:
            goal = ""
            if figure == "tokens_per_s":
                one, two = (outcome.ratio(f"{figure}_{streams}", ours, neuron.STOCK) or 0.0 for ours in rows[0][2:4])
                goal = f"≥ {least[0]} {mark(one >= least[0])}, ≥ {least[1]} {mark(two >= least[1])}"
            elif figure == "daemon_us":
                goal = (
                    f"≤ {DAEMON_US:g} {mark((outcome.median(neuron.NEURON, f'{figure}_{streams}') or 0) <= DAEMON_US)}"
                )
            plural = "streams" if streams > 1 else "stream"
            rows.append([f"{text}, {streams} {plural}", *_cells(outcome, f"{figure}_{streams}"), goal])
    for figure, (text, limit, times) in NEURON_LIMITS.items():
        value = outcome.median(neuron.NEURON, figure)
        if value is None:
            continue
        goal = f"≤ {limit:g} {mark(value <= limit)}"
        theirs = outcome.median(neuron.STOCK, figure)
        if times and theirs is not None:
            goal += f", stock ≥ {times} × {mark(theirs >= times * value)}"
        rows.append([text, *_cells(outcome, figure), goal])
    return rows


def _cells(outcome: Outcome, figure: str) -> list[str]:
    cells = []
    for system in (neuron.STOCK, neuron.NEURON, neuron.BOTH):
        value, ratio = outcome.median(system, figure), outcome.ratio(figure, system, neuron.STOCK)
        shows_ratio = ratio is not None and system != neuron.STOCK
        cells.append("–" if value is None else number(value) + (f" (×{ratio:.2f})" if shows_ratio else ""))
    return cells


def neuron_notes(outcome: Outcome, plan: neuron.Plan) -> list[str]:
    return [
        machine(),
        f"{_versions(outcome)}, {MODELS_OF[plan.model]}, one thread of arithmetic; answers of {neuron.TOKENS} tokens",
        f"{plan.rounds} rounds of {plan.seconds:g} s; {plan.loads} loads; {plan.stock_starts} starts of stock vLLM",
        "a number in brackets is divided by stock vLLM's",
    ]


def _versions(outcome: Outcome) -> str:
    return ", ".join(f"{name} {version}" for name, version in outcome.versions.items())

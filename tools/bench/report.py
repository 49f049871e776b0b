"""What was measured as a table of text or Markdown, with the goals beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tools.bench.cores import machine
from tools.bench.relay import Outcome, Plan
from tools.bench.systems import DIRECT, DOUBLE, OURS

RESULTS = Path(__file__).with_name("RESULTS.md")
ROUTER, SMG = "vllm-router", "smg"


@dataclass(frozen=True, slots=True)
class Row:
    """A figure, its text, and what ours must be: a limit, or ratios to peers."""

    figure: str
    text: str
    more_is_better: bool = False
    limit: float | None = None
    ratios: tuple[tuple[str, float], ...] = ()  # peer → ours ÷ peer's


ROWS = (
    Row("json_per_s", "JSON requests/s", True, ratios=((ROUTER, 0.8), (SMG, 2.0))),
    Row("json_cpu_us", "CPU µs a JSON request"),
    Row("streams_per_s", "streams/s", True, ratios=((ROUTER, 1.0), (SMG, 1.0))),
    Row("chunks_per_s", "chunks/s", True),
    Row("stream_cpu_us", "CPU µs a stream", ratios=((ROUTER, 0.8), (SMG, 0.6))),
    Row("chunk_cpu_us", "CPU µs a chunk"),
    Row("spliced_per_s", "spliced streams/s", True),
    Row("spliced_cpu_us", "CPU µs a spliced stream", ratios=((ROUTER, 0.8), (SMG, 0.6))),
    Row("paced_cpu_us", "CPU µs a token, 64 streams × 100 tokens/s", limit=30.0),
    Row("added_ttft_p50_ms", "added TTFT p50 ms at 200 requests/s", limit=1.0),
    Row("added_ttft_p99_ms", "added TTFT p99 ms at 200 requests/s", limit=5.0),
    Row("busy_ttft_p50_ms", "TTFT p50 ms, saturated"),
    Row("busy_ttft_p99_ms", "TTFT p99 ms, saturated"),
    Row("idle_rss_mb", "resident MiB, 32 connections"),
    Row("rss_mb", "resident MiB, 1,000 open streams"),
)
DOUBLE_LIMIT = 1.1  # processor time a request with two processes on one port, against one


def table(outcome: Outcome) -> list[list[str]]:
    """Header and rows. A peer's cell holds its figure and, in brackets, ours divided by it."""
    systems = [OURS, *(name for name in outcome.rounds[0] if name not in (OURS, DIRECT)), DIRECT]
    rows = [["", *systems, "goal for ours"]]
    for row in ROWS:
        cells = [row.text]
        for system in systems:
            value, ratio = outcome.median(system, row.figure), outcome.ratio(row.figure, OURS, system)
            shows_ratio = ratio is not None and system != OURS and "ttft" not in row.figure
            cells.append("–" if value is None else _number(value) + (f" (×{ratio:.2f})" if shows_ratio else ""))
        if cells.count("–") < len(systems):
            rows.append([*cells, _goal(row, outcome)])
    return rows


def _goal(row: Row, outcome: Outcome) -> str:
    """The goal and whether it was met, as far as its peers were there."""
    verdicts = []
    if row.limit is not None:
        value = outcome.median(OURS, row.figure)
        verdicts.append(f"≤ {row.limit:g} {_mark(value is not None and value <= row.limit)}")
    for peer, wanted in row.ratios:
        ratio = outcome.ratio(row.figure, OURS, peer)
        if ratio is not None:
            met = ratio >= wanted if row.more_is_better else ratio <= wanted
            verdicts.append(f"{'≥' if row.more_is_better else '≤'} {wanted:g} × {peer} {_mark(met)}")
    if row.figure == "json_cpu_us" and (ratio := outcome.ratio(row.figure, DOUBLE, OURS)) is not None:
        verdicts.append(f"two processes ≤ {DOUBLE_LIMIT:g} × one {_mark(ratio <= DOUBLE_LIMIT)}")
    return ", ".join(verdicts)


def _mark(met: bool) -> str:
    return "✓" if met else "✗"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def plain(rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        first, *rest = (
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join([first, *rest]).rstrip())
    return "\n".join(lines)


def markdown(rows: list[list[str]]) -> str:
    header, *body = rows
    lines = [header, ["---", *["---:"] * (len(header) - 2), "---"], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def notes(outcome: Outcome, plan: Plan) -> list[str]:
    """What must be known to read the figures."""
    versions = ", ".join(f"{name} {version}" for name, version in outcome.versions.items())
    said = [
        f"{machine()}; {outcome.cores}",
        f"{versions}; {plan.rounds} rounds of {plan.seconds:g} s a run, 32 connections; a stream is 64 tokens",
    ]
    if not outcome.cores.alone:
        said.append("only one core: the system under test shares it, so rates mean little")
    return said + [f"left out: {what}" for what in outcome.left_out]


def write(heading: str, rows: list[list[str]], said: list[str], path: Path = RESULTS) -> None:
    """Put a section into the kept report, in place of the one of the same heading."""
    text = path.read_text() if path.exists() else TITLE
    before, found, rest = text.partition(f"## {heading}\n")
    _, _, after = rest.partition("\n## ")
    section = f"## {heading}\n\n" + "\n".join(f"- {line}" for line in said) + f"\n\n{markdown(rows)}\n"
    tail = f"\n## {after}" if after else ""
    path.write_text((before if found else before.rstrip() + "\n\n") + section + tail)


TITLE = """# Results

Written by `python3 -m tools.bench … --write`. Ratios hold between columns of one table; absolute figures belong to the
machine and the hour. A number in brackets is ours divided by that column's.
"""

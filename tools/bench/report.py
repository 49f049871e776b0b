"""A table as text or Markdown, and the kept report."""

from __future__ import annotations

from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")
TITLE = """# Results

Written by `python3 -m tools.bench … --write`. Ratios hold between columns of one table; absolute figures belong to the
machine and the hour.
"""

Table = list[list[str]]
"""Header and rows; the first column is text, and so is the last."""


def plain(rows: Table) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(_aligned(row, widths) for row in rows)


def _aligned(row: list[str], widths: list[int]) -> str:
    first, *middle, last = zip(row, widths, strict=True)
    cells = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in middle), last[0]]
    return "  ".join(cells).rstrip()


def markdown(rows: Table) -> str:
    header, *body = rows
    lines = [header, ["---", *["---:"] * (len(header) - 2), "---"], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def mark(met: bool) -> str:
    return "✓" if met else "✗"


def write(heading: str, rows: Table, notes: list[str], path: Path = RESULTS) -> None:
    """Put a section into the kept report, in place of the one of the same heading."""
    text = path.read_text() if path.exists() else TITLE
    before, found, rest = text.partition(f"## {heading}\n")
    _, _, after = rest.partition("\n## ")
    section = f"## {heading}\n\n" + "\n".join(f"- {line}" for line in notes) + f"\n\n{markdown(rows)}\n"
    tail = f"\n## {after}" if after else ""
    path.write_text((before if found else before.rstrip() + "\n\n") + section + tail)

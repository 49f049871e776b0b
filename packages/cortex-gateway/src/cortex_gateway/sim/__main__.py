"""`python -m cortex_gateway.sim SEED [COUNT]`: play the scenarios of these seeds, and say how each ended."""

from __future__ import annotations

import sys

from cortex_gateway.sim import drawn, simulate


def main() -> None:
    first, count = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1
    for seed in range(first, first + count):
        sys.stdout.write(f"seed {seed}: ")
        sys.stdout.flush()
        outcome = simulate(drawn(seed), seed)
        sys.stdout.write(f"{outcome.virtual_s:.0f} s, {len(outcome.loads)} loads, {outcome.outcomes}\n")


if __name__ == "__main__":
    main()

"""python -m tools.docs: write what is made from the code.

man cortex|neuron FOLDER     manual pages below it
completions FOLDER           of the shells, below a share folder
reference                    packages/*/REFERENCE.md and rpm/*.toml, in this checkout
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def main(arguments: list[str]) -> int:
    match arguments:
        case ["man", "cortex" | "neuron" as of, folder]:
            from tools.docs.man import pages

            write(Path(folder), pages(of))
        case ["completions", folder]:
            from tools.docs.completions import completions

            write(Path(folder), completions())
        case ["reference"]:
            from tools.docs.reference import files

            write(ROOT, files())
        case _:
            print(__doc__)
            return 2
    return 0


def write(folder: Path, texts: dict[str, str]) -> None:
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

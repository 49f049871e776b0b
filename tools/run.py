#!/usr/bin/env python3
"""The two commands, for which nothing but Python is needed beforehand.

python3 tools/run.py demo     two neurons, a gateway, and a shown run with the real engine on this machine's CPU
python3 tools/run.py test     lint, types and all tests
"""

import sys
from pathlib import Path

if not (3, 11) <= sys.version_info[:2] <= (3, 13):
    sys.exit(f"cortex runs on Python 3.11 to 3.13, this is {sys.version.split()[0]}: try python3.12 tools/run.py …")

sys.path[0] = str(Path(__file__).resolve().parent.parent)
from tools.runner.main import main  # noqa: E402 (after the path is set)

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Run a program that ends with its parent: `python leash.py PARENT_PID PROGRAM ARGUMENTS…`.

The kernel sends SIGTERM when the parent's thread that started us is gone, however it went (prctl(2), PR_SET_PDEATHSIG).
A parent that died before the call is seen by its pid.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, program = int(sys.argv[1]), sys.argv[2:]
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit("the parent is gone")
    os.execv(program[0], program)  # noqa: S606 (no shell is wanted)


if __name__ == "__main__":
    main()

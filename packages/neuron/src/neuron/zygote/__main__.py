"""`python -m neuron.zygote`: started by the daemon, never by hand."""

from __future__ import annotations

import sys

import msgspec

from neuron.zygote import child, server, wire


def main(arguments: list[str]) -> None:
    if arguments[0] == "--engine-host":
        _, setup, events, request = arguments

        def replica() -> None:
            child.set_up_fresh(int(events))
            server.load_program(_decode(setup)).main(request, int(events))

        child.run(replica)
    else:
        fd, parent, setup, *no_fork = arguments
        server.serve(int(fd), int(parent), _decode(setup), *no_fork)


def _decode(setup: str) -> wire.Setup:
    return msgspec.json.decode(setup, type=wire.Setup)


main(sys.argv[1:])

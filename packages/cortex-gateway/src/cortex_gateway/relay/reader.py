"""Reads large bodies: `python -m cortex_gateway.relay.reader`, started by `large` with a socket as its stdin.

A frame is a length and so many bytes. One job: what is wanted and the body come; each model that the body names is
asked for; what was read, or why it cannot be, goes back. It ends with its parent.
"""

from __future__ import annotations

import pickle
import signal
import socket
import sys

from msgspec import structs

from cortex_core.errors import CortexError, Dialect
from cortex_gateway.policy.body import Target, Wanted, read

SIZE_BYTES = 8  # before each frame, big-endian
Job = tuple[Dialect, bool]  # and whether only tokens are counted; the body is the next frame
Failed = tuple[str, str, str | None]  # a CortexError's kind, message and param
Reply = str | Wanted | Failed
"""A model to resolve; what was read, its payload the next frame; or why nothing was."""


def main() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # told to the whole service: requests that drain still need us
    with socket.socket(fileno=0) as control:
        while True:
            dialect, counting = pickle.loads(_receive(control))  # noqa: S301 - our parent's
            _answer(control, dialect, _receive(control), counting=counting)


def _answer(control: socket.socket, dialect: Dialect, body: bytes, *, counting: bool) -> None:
    def resolve(asked: str) -> Target:
        _reply(control, asked)
        target: Target | None = pickle.loads(_receive(control))  # noqa: S301 - our parent's
        if target is None:
            raise CortexError("model_not_found", asked)  # our parent knows better words
        return target

    try:
        wanted = read(body, dialect, resolve, counting=counting)
    except CortexError as error:
        _reply(control, (error.kind, str(error), error.param))
    else:
        _reply(control, structs.replace(wanted, payload=b""))
        _send(control, wanted.payload)


def _reply(control: socket.socket, reply: Reply) -> None:
    _send(control, pickle.dumps(reply))


def _send(control: socket.socket, data: bytes | bytearray) -> None:
    control.sendall(len(data).to_bytes(SIZE_BYTES))
    control.sendall(data)


def _receive(control: socket.socket) -> bytes:
    return _read(control, int.from_bytes(_read(control, SIZE_BYTES)))


def _read(control: socket.socket, size: int) -> bytes:
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = control.recv_into(view)
        if not count:
            sys.exit()  # the parent is gone, or has had enough
        view = view[count:]
    return bytes(data)


if __name__ == "__main__":
    main()

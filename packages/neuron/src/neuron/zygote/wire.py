"""What daemon and zygote say to each other: one JSON message with its descriptors a packet, on a socket pair.

SOCK_SEQPACKET keeps message borders and hands descriptors over with the message they belong to.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

import msgspec

PACKET = 128 * 1024  # bytes: below the kernel's default send buffer, far above any message
FDS = 8


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """What a zygote is for. Its first argument."""

    module: str  # the engine module
    devices: tuple[str, ...]  # several: a group for tensor parallelism
    cache_dir: str  # where the engine keeps what it compiles and learns
    threads: int = 1  # of each engine's arithmetic on the CPU, unless OMP_NUM_THREADS says so


class Fork(msgspec.Struct, frozen=True, tag="fork"):
    """Start a replica's process group. Carries two descriptors: its log, its event pipe's write end."""

    replica: str
    request: str  # for the engine module's `main`


class Signal(msgspec.Struct, frozen=True, tag="signal"):
    """Signal a replica's leading process, or its whole group. Without effect once it has ended."""

    replica: str
    number: int
    group: bool = False


class Preloading(msgspec.Struct, frozen=True, tag="preloading"):
    done: int
    total: int
    step: str


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    engine: str
    version: str
    platform: str
    seconds: float
    forks: bool  # False: every load starts a fresh interpreter
    reason: str = ""  # why it does not fork
    problems: tuple[str, ...] = ()  # what could not be imported beforehand; loads work without
    families: tuple[str, ...] = ()  # of architectures that the engine knows; empty: it does not say


class Unusable(msgspec.Struct, frozen=True, tag="unusable"):
    """The engine cannot be imported. The zygote ends after it."""

    reason: str


class Forked(msgspec.Struct, frozen=True, tag="forked"):
    replica: str
    pid: int  # of the leading process, and of its group


class Exited(msgspec.Struct, frozen=True, tag="exited"):
    """The leading process has ended, and every process of its group is gone and reaped."""

    replica: str
    code: int  # as of subprocess: negative is a signal


Command = Fork | Signal
Report = Preloading | Ready | Unusable | Forked | Exited

encode = msgspec.json.Encoder().encode
decode_command = msgspec.json.Decoder(Command).decode
decode_report = msgspec.json.Decoder(Report).decode


def send(sock: socket.socket, message: Command | Report, fds: Sequence[int] = ()) -> None:
    data = encode(message)
    if len(data) > PACKET:
        raise ValueError(f"a message of {len(data)} bytes to the zygote, at most {PACKET} fit")
    socket.send_fds(sock, [data], fds)


def receive(sock: socket.socket) -> tuple[bytes, list[int]]:
    """One packet and its descriptors; no bytes: the other side is gone."""
    data, fds, _, _ = socket.recv_fds(sock, PACKET, FDS, socket.MSG_CMSG_CLOEXEC)
    return data, fds

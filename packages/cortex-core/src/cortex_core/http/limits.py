"""Every bound of the server in one value: nothing a client does may cost more than this."""

from __future__ import annotations

import msgspec


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Defaults for a listener that strangers reach. Sizes in bytes, times in seconds."""

    body_bytes: int = 32 * 2**20  # over it: 413, known from Content-Length before a byte is read
    target_bytes: int = 8 * 2**10  # over it: 414
    header_bytes: int = 32 * 2**10  # request line and headers together; over it: 431
    header_count: int = 100  # over it: 431
    header_timeout_s: float = 10.0  # from the first byte of a head to its end; then 408
    body_grace_s: float = 10.0  # a body may be slow this long, then it must come at body_bytes_per_s
    body_bytes_per_s: int = 1024  # below it: 408
    body_timeout_s: float = 60.0  # for a whole body, while the app reads it; then 408
    keep_alive_s: float = 125.0  # longer than clients keep theirs (protocol H-16), so that none meets a closing one
    write_stall_s: float = 30.0  # a reader that does not take a write buffer in this time is cut
    linger_s: float = 2.0  # after an early answer: how long the rest of the request is read and dropped
    tls_handshake_s: float = 10.0
    connections: int = 10_000  # over it the oldest idle one goes; also bounded by the process's descriptors
    reserved_fds: int = 64  # descriptors that accepting never takes
    backlog: int = 2048
    receive_bytes: int = 64 * 2**10  # unread request bytes held for an app; also of pipelined requests
    write_bytes: int = 16 * 2**10  # unsent answer bytes held for a reader before the app has to wait
    send_buffer_bytes: int = (
        64 * 2**10
    )  # the kernel's part of it (SO_SNDBUF; 0: as it likes; below this, loopback crawls)

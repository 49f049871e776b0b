"""Kinds of values that several files share."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from cortex_core.config.loader import ConfigError

Address = Annotated[
    str,
    Meta(
        pattern=r"^((\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._\-]+):[0-9]{1,5}|unix:/.+|fd:[0-9]+)\Z",
        description="host:port, [v6]:port, unix:/path or fd:N",
    ),
]
Endpoint = Annotated[
    str, Meta(pattern=r"^http://[A-Za-z0-9._\-\[\]:]+/?\Z", description="http://host:port, without a path")
]
Seconds = Annotated[float, Meta(ge=0, le=1_000_000)]
Megabytes = Annotated[int, Meta(ge=1, le=1 << 30)]


def read_token(token: str, token_file: str, base: Path, source: str, where: str) -> str:
    """The shared token: given itself, or the first line of a file.

    Raises:
        ConfigError: the file cannot be read or is empty.
    """
    if token or not token_file:
        return token
    path = base / token_file
    try:
        lines = path.read_text(encoding="utf-8").split()
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a path with a NUL
        raise ConfigError(source, where, f"{path} cannot be read: {error}") from error
    if not lines:
        raise ConfigError(source, where, f"{path} is empty")
    return lines[0]


def is_loopback(address: str) -> bool:
    """Whether only this host can reach a listen address."""
    if address.startswith(("unix:", "fd:")):
        return True
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name: 127.example.org is anybody's
        return host == "localhost"

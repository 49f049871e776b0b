"""Kinds of values that several files share."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from cortex_core.config.loader import ConfigError

_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_\-]{0,61}[A-Za-z0-9_])?"
_HOST = rf"(\[[0-9A-Fa-f:.]+\]|{_LABEL}(\.{_LABEL})*\.?)"
_PORT = r"(6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5]?[0-9]{1,4})"
# `title` says the form in words: an error quotes it instead of the expression.
Address = Annotated[
    str,
    Meta(pattern=rf"^({_HOST}:{_PORT}|unix:/.+|fd:[0-9]{{1,6}})\Z", title="host:port, [v6]:port, unix:/path or fd:N"),
]
Endpoint = Annotated[str, Meta(pattern=rf"^http://{_HOST}(:{_PORT})?/?\Z", title="http://host:port, without a path")]
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
        problem = f"{path} cannot be read: {getattr(error, 'strerror', None) or error}"
        raise ConfigError(source, where, problem, "it holds one line, the token, readable for the service") from error
    if not lines:
        raise ConfigError(source, where, f"{path} is empty", "its first line is to be the token")
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

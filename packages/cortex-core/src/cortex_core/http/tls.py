"""TLS for a listener: certificate and key from files, 1.2 and later, HTTP/1.1 only."""

from __future__ import annotations

import ssl
from pathlib import Path


def tls_context(certificate: str | Path, key: str | Path) -> ssl.SSLContext:
    """A server's context. Raises ValueError that names the file which cannot be read or does not fit."""
    for path in (certificate, key):
        try:
            Path(path).read_bytes()
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror}") from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        reason = error.reason if isinstance(error, ssl.SSLError) and error.reason else error
        raise ValueError(f"certificate {certificate} with key {key}: {reason}") from None
    return context


def _no_password() -> str:
    """Asked for by an encrypted key: a daemon has nobody to ask."""
    raise ValueError("the key is encrypted")

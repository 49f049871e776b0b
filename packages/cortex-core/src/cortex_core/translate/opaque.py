"""Reasoning as an opaque string, so that a client which echoes it gives it back to us: the gateway remembers nothing.

It is no secret and no proof: what a client sends back is text of its own, like all of its prompt.
"""

from __future__ import annotations

import base64
import binascii
import zlib

PREFIX = "cx1."
MAX_TEXT = 4 << 20
"""Bytes that a sealed text may open to: a small string must not become a huge one."""


def seal(text: str) -> str:
    """The same text gives the same string, so that an echoed prefix stays one."""
    packed = zlib.compress(text.encode(errors="replace"), 6)
    return PREFIX + base64.urlsafe_b64encode(packed).rstrip(b"=").decode()


def unseal(sealed: object) -> str | None:
    """The text of `seal`; None: it is not ours, or not whole."""
    if not isinstance(sealed, str) or not sealed.startswith(PREFIX):
        return None
    body = sealed[len(PREFIX) :]
    try:
        packed = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
        opener = zlib.decompressobj()
        text = opener.decompress(packed, MAX_TEXT)
        return text.decode() if opener.eof else None
    except (ValueError, zlib.error, binascii.Error):
        return None

"""Reasoning that travels with the client and comes back: `cx1.` and base64 of its zlib bytes.

It is no secret and no proof: a client may have written it, so what comes back is bounded, and whatever cannot be read
is nothing.
"""

from __future__ import annotations

import base64
import binascii
import zlib

PREFIX = "cx1."
MAX_BYTES = 4 << 20  # of reasoning; more is no reasoning of ours


def seal(text: str) -> str:
    """An opaque string that holds `text`. The same text gives the same string."""
    return PREFIX + base64.b64encode(zlib.compress(text.encode(errors="replace"), 1)).decode()


def unseal(sealed: object) -> str:
    """The text inside; empty for whatever `seal` did not make."""
    if not isinstance(sealed, str) or not sealed.startswith(PREFIX):
        return ""
    try:
        data = base64.b64decode(sealed[len(PREFIX) :], validate=True)
        inflate = zlib.decompressobj()
        text = inflate.decompress(data, MAX_BYTES)
        return text.decode() if inflate.eof else ""
    except (binascii.Error, zlib.error, ValueError):
        return ""


SHOWN = seal("")
"""The signature of reasoning whose text the client has in the clear: it comes back without our help."""

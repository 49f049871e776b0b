"""Keeps web pages out: a Host allow-list against DNS rebinding, an Origin check against cross-site requests (F63).

A browser on the operator's desk can be made to send requests to any address it reaches, loopback included, by any page
it shows. Rebinding gives such a page a name of its own for our address, so a name that is not ours is refused; an
address cannot be rebound. A request that a page of another origin sends says so, and is refused; one of our own page
must send JSON, which a form cannot. No answer carries CORS headers, so no other page reads what it may not send.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Awaitable, Collection

from cortex_core.http.asgi import ASGIApp, Receive, Scope, Send
from cortex_core.http.listeners import parse_address
from cortex_core.http.request import read_once
from cortex_core.http.responses import respond
from cortex_core.http.server import Errors, openai_errors

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class HostGuard:
    """Middleware. `hosts` are the names (no ports) that requests may be addressed to; "*" is any name.

    `any_address` lets requests in that are addressed to a literal address beyond loopback: for listeners that lie
    there. `origins` are further origins whose pages may send requests (`app://zed`, `https://console.internal`).
    Requests over a unix socket come from no browser and pass.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: Collection[str],
        any_address: bool = False,
        origins: Collection[str] = (),
        errors: Errors = openai_errors,
    ) -> None:
        self._app = app
        self._hosts = frozenset(host.lower().rstrip(".") for host in hosts)
        self._any_address = any_address
        self._origins = frozenset(origin.lower() for origin in origins)
        self._errors = errors
        self._known: dict[bytes, str | None] = {}  # Host values already judged: the refusal, or None

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        refusal = read_once(scope, self._refusal) if scope["type"] == "http" and scope["client"] is not None else None
        if refusal is None:
            return self._app(scope, receive, send)
        headers, body = self._errors(403, refusal, scope)
        return respond(send, 403, body, headers)

    def _refusal(self, scope: Scope) -> str | None:
        host = b""
        origin = site = content_type = None
        for name, value in scope["headers"]:
            if name == b"host":
                host = value
            elif name == b"origin":
                origin = value.decode("latin-1").lower()
            elif name == b"sec-fetch-site":
                site = value
            elif name == b"content-type":
                content_type = value.lower()
        if (refusal := self._host_refusal(host)) is not None:
            return refusal
        if origin is not None:
            if origin not in self._origins and origin != f"{scope['scheme']}://{host.decode('latin-1').lower()}":
                return "a page of another origin may not send requests here"
            if scope["method"] not in _SAFE_METHODS and (content_type or b"").partition(b";")[0].strip() != _JSON:
                return "a page must send content-type application/json"
        elif site == b"cross-site" and scope["method"] not in _SAFE_METHODS:
            return "a page of another site may not send requests here"
        return None

    def _host_refusal(self, value: bytes) -> str | None:
        if value not in self._known:
            if len(self._known) > 1000:  # many names are no client of ours
                self._known.clear()
            name = host_name(value.decode("latin-1"))
            self._known[value] = (
                None if self._is_ours(name) else f"the host {name!r} is not served here: [gateway] hosts"
            )
        return self._known[value]

    def _is_ours(self, name: str) -> bool:
        if "*" in self._hosts or name in self._hosts:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return name == "localhost" or name.endswith(".localhost")  # RFC 6761 6.3: never anything but loopback
        return self._any_address or address.is_loopback


_JSON = b"application/json"


def host_name(host: str) -> str:
    """The name in a Host header: lower case, without port, brackets and final dot."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower().rstrip(".")


def own_names(listen: str) -> tuple[frozenset[str], bool]:
    """What `hosts` and `any_address` are when nothing is configured: loopback's names for a listener on loopback,
    beyond it also this host's names and literal addresses (which cannot be rebound)."""
    if listen.startswith(("unix:", "fd:")):
        return _host_names(), True
    host, _ = parse_address(listen)
    try:
        beyond = not ipaddress.ip_address(host).is_loopback
    except ValueError:
        beyond = host != "localhost"
    return (_host_names() | {host}, True) if beyond else (frozenset(), False)


def _host_names() -> frozenset[str]:
    name = socket.gethostname().lower()
    return frozenset({name, name.partition(".")[0], socket.getfqdn().lower()})

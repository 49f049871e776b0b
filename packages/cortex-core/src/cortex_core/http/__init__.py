"""What gateway and neuron share on the wire: the hardened server, raw-ASGI answers, and the lean client.

The parser is llhttp, the ASGI semantics are hypercorn's; `head.py` and `exchange.py` say why.
"""

from cortex_core.http.asgi import ASGIApp, Headers, Message, Receive, Scope, Send
from cortex_core.http.client import BrokenResponse, Client, ConnectFailed, Response, header_lines
from cortex_core.http.guard import HostGuard, host_name, own_names
from cortex_core.http.limits import Limits
from cortex_core.http.listeners import address_of, bind, parse_address
from cortex_core.http.request import BodyTooLarge, Disconnected, Request, read_once
from cortex_core.http.responses import EVENT_STREAM_HEADERS, EventStream, respond, respond_json
from cortex_core.http.runner import run
from cortex_core.http.server import Errors, Server, openai_errors
from cortex_core.http.tls import tls_context

__all__ = [
    "EVENT_STREAM_HEADERS",
    "ASGIApp",
    "BodyTooLarge",
    "BrokenResponse",
    "Client",
    "ConnectFailed",
    "Disconnected",
    "Errors",
    "EventStream",
    "Headers",
    "HostGuard",
    "Limits",
    "Message",
    "Receive",
    "Request",
    "Response",
    "Scope",
    "Send",
    "Server",
    "address_of",
    "bind",
    "header_lines",
    "host_name",
    "openai_errors",
    "own_names",
    "parse_address",
    "read_once",
    "respond",
    "respond_json",
    "run",
    "tls_context",
]

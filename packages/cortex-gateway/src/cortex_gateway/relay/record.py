"""What is kept of one request when it has ended."""

from __future__ import annotations

from msgspec import Struct

from cortex_core.errors import Dialect
from cortex_core.gateway_api import Place
from cortex_gateway.policy.usage import Usage

CLIENT_LEFT = "client_left"


class Record(Struct, kw_only=True):
    """Filled in as the request goes on. Times are monotonic; 0.0: it did not come to that."""

    request_id: str
    model: str
    dialect: Dialect
    stream: bool
    arrived: float
    neuron: str = ""
    cold: bool = False  # it waited for a load
    places: tuple[Place, ...] = ()  # where the load it waited for could have gone: the one taken, and what it beat
    retries: list[str] = []  # why, each time
    leased: float = 0.0
    at_work: bool = False  # an engine may work at it, or has
    first_content: float = 0.0
    ended: float = 0.0
    usage: Usage | None = None
    finish_reason: str = ""
    code: str = ""  # the error's, or CLIENT_LEFT; empty: it was answered

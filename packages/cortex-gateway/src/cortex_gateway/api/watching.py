"""`GET /models/sse`: which models come and go, as llama.cpp's router tells it. Editors follow it instead of asking.

A second's delay does not matter to a list of models, so nobody is woken for it: each watcher looks now and then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

from cortex_core.dialects import sse
from cortex_core.dialects.body import encode
from cortex_core.errors import CortexError, Dialect
from cortex_core.http import EVENT_STREAM_HEADERS, EventStream, Receive, Scope, Send
from cortex_gateway.api.errors import Ids, refuse
from cortex_gateway.dispatch.dispatcher import Dispatcher
from cortex_gateway.policy.catalogue import statuses
from cortex_gateway.relay.silence import KEEP_ALIVE_S

LOOK_S = 1.0
WATCHERS_MOST = 100
ALLOW: tuple[tuple[bytes, bytes], ...] = ((b"allow", b"GET"),)

_COMMENT = b": keep-alive\n\n"


class Watching:
    def __init__(self, dispatcher: Dispatcher, ids: Ids) -> None:
        self._dispatcher = dispatcher
        self._ids = ids
        self._watchers = 0

    async def __call__(self, scope: Scope, _: Receive, send: Send) -> None:
        request_id = self._ids.next()
        if scope["method"] != "GET":
            error = CortexError("method_not_allowed", f"{scope['method']} is not allowed here: GET")
            await refuse(send, error, Dialect.OPENAI_CHAT, request_id, ALLOW)
        elif self._watchers >= WATCHERS_MOST:
            error = CortexError("queue_full", f"{WATCHERS_MOST} watch already")
            await refuse(send, error, Dialect.OPENAI_CHAT, request_id)
        else:
            self._watchers += 1
            try:
                await self._tell(send, request_id)
            finally:
                self._watchers -= 1

    async def _tell(self, send: Send, request_id: str) -> None:
        """Until the client leaves, which cancels it."""
        async with EventStream(send) as out:
            await out.start(200, [*EVENT_STREAM_HEADERS, (b"x-request-id", request_id.encode())])
            await out.write(_COMMENT)
            told, silent_s = statuses(self._dispatcher.fleet), 0.0
            while True:
                await asyncio.sleep(LOOK_S)
                now = statuses(self._dispatcher.fleet)
                events = b"".join(sse.encode(encode(event)) for event in changes(told, now))
                told, silent_s = now, 0.0 if events else silent_s + LOOK_S
                if silent_s >= KEEP_ALIVE_S:
                    events, silent_s = _COMMENT, 0.0
                if events:
                    await out.write(events)


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """What llama.cpp's router says when one list of statuses follows another."""
    if before.keys() != now.keys():
        yield {"model": "*", "event": "models_reload"}
    for model, status in now.items():
        if before.get(model, status) != status:
            event = "model_status" if status == "loading" else "status_change"
            yield {"model": model, "event": event, "data": {"status": status}}

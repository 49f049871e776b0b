"""Sleep as vLLM has it: a device's memory given back while the process, its graphs and what it compiled stay.

Level 1 keeps the weights in host memory. Level 2 keeps them nowhere: they are read from the checkpoint again. Both
forget the KV cache. Served beside vLLM's own application: its routes for this come only with everything else that is
meant for developers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from neuron.engines.events import SLEEP, WAKE

Scope = dict[str, Any]
App = Callable[[Scope, Any, Any], Awaitable[None]]


def available(engine: Any) -> bool:
    """Whether this engine was loaded so that it can sleep, on a platform that has it."""
    from vllm.platforms import current_platform

    return bool(engine.model_config.enable_sleep_mode and current_platform.is_sleep_mode_available())


def obey(app: App, engine: Any, can_sleep: bool) -> App:
    """An ASGI application that is `app`, and lets the engine sleep and wake. What fails in the engine is a 500."""
    if not can_sleep:
        return app

    async def obeying(scope: Scope, receive: Any, send: Any) -> None:
        path = scope.get("path")
        if path not in (SLEEP, WAKE) or scope.get("method") != "POST":
            return await app(scope, receive, send)
        level = 2 if scope["query_string"] == b"level=2" else 1
        await (engine.sleep(level) if path == SLEEP else _wake(engine, level))
        await send({"type": "http.response.start", "status": 204, "headers": []})
        return await send({"type": "http.response.body", "body": b""})

    return obeying


async def _wake(engine: Any, level: int) -> None:
    if level == 1:
        await engine.wake_up()
        return
    await engine.wake_up(["weights"])
    await engine.collective_rpc("reload_weights")
    await engine.wake_up(["kv_cache"])

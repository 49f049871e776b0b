"""How the fleet is steered over HTTP: `/cortex/v1/{explain,load,unload,pin,cordon}`. Starlette routes these."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cortex_core.errors import CortexError
from cortex_core.gateway_api import (
    CORDON_PATH,
    EXPLAIN_PATH,
    LOAD_PATH,
    PIN_PATH,
    REQUEST_ID_HEADER,
    UNLOAD_PATH,
    CordonCommand,
    ExplainRequest,
    LoadCommand,
    PinCommand,
    UnloadCommand,
)
from cortex_gateway.api.errors import Ids
from cortex_gateway.dispatch.steering import Steering

MAX_COMMAND_BYTES = 64 << 10

C = TypeVar("C", bound=msgspec.Struct)


def routes(steering: Steering, ids: Ids) -> list[Route]:
    """Each takes its struct of `cortex_core.gateway_api` and answers with one."""

    async def explain(asked: ExplainRequest) -> Any:
        return steering.explain(asked)

    async def load(command: LoadCommand) -> Any:
        if command.dry_run:
            return steering.explain(ExplainRequest(model=command.model))
        return await steering.load(command)

    def route(path: str, kind: type[C], act: Callable[[C], Awaitable[Any]]) -> Route:
        async def handle(request: Request) -> Response:
            result = await act(await _command(request, kind))
            headers = {REQUEST_ID_HEADER: ids.next()}
            return Response(msgspec.json.encode(result), 200, headers, "application/json")

        handle.__doc__ = kind.__doc__  # for the reference
        return Route(path, handle, methods=["POST"])

    return [
        route(EXPLAIN_PATH, ExplainRequest, explain),
        route(LOAD_PATH, LoadCommand, load),
        route(UNLOAD_PATH, UnloadCommand, steering.unload),
        route(PIN_PATH, PinCommand, steering.pin),
        route(CORDON_PATH, CordonCommand, steering.cordon),
    ]


async def _command(request: Request, kind: type[C]) -> C:
    """The body as a command. JSON only, and said to be: a browser's form cannot steer."""
    if request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
        raise CortexError("bad_request", "content-type must be application/json", param="content-type")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_COMMAND_BYTES:
            raise CortexError("body_too_large", f"a command is at most {MAX_COMMAND_BYTES} bytes")
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise CortexError("bad_request", str(error)) from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CortexError("bad_request", f"the body is not JSON: {error}") from error

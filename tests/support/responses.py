"""What chat is as Responses: shared by the tests of that translation."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from cortex_core.errors import CortexError
from cortex_core.fleet import ModelFacts
from cortex_core.translate.chat_events import Chunk, Translation
from cortex_core.translate.responses import Context, ResponsesStream, request, response
from tests.support.chunks import answer, role
from tests.support.readers.responses import Read, check_response, read

FACTS = ModelFacts(reasoning=True, thinking_toggle="none", fetches_urls=True)
USER = [{"role": "user", "content": "hi"}]
CREATED = 1_700_000_000


def translated(**fields: Any) -> tuple[dict[str, Any], Context]:
    """The chat request, and the context, of a Responses request."""
    made = request(json.dumps({"model": "m", "input": USER, **fields}).encode(), FACTS)
    return json.loads(made.body), made.context


def streamed(pieces: Iterable[bytes], context: Context | None = None) -> bytes:
    """The Responses stream of a chat stream's bytes. One that ends in the middle fails, as the gateway makes it."""
    translator = ResponsesStream(context or translated()[1], "resp_1", CREATED)
    translation = Translation(translator)
    out = [translation.feed(piece) for piece in pieces]
    out.append(translation.end())
    if not translation.done:
        out.append(translator.error(CortexError("upstream_failed", "the engine is gone")))
    assert translator.feed(Chunk()) == translator.keepalive() == b"", "behind the terminal event"
    return b"".join(out)


def said(*pieces: bytes, context: Context | None = None) -> Read:
    return read(streamed((role(), *pieces), context))


def whole(message: dict[str, Any], finish: str = "stop", context: Context | None = None) -> dict[str, Any]:
    """The response to a chat answer that is no stream."""
    body = response(answer(message, finish), context or translated()[1], "resp_1", CREATED)
    made: dict[str, Any] = json.loads(body)
    check_response(made)
    return made

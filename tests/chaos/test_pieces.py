"""A stream comes to the same for every client, whatever pieces it arrives in (R05): every split in two, byte by byte,
and at random."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

import msgspec
import pytest

from cortex_core.errors import Dialect
from cortex_core.fleet import ModelFacts
from cortex_gateway.policy.body import Target, read
from cortex_gateway.relay.rendering import rendering
from tests.support import chunks
from tests.support.figures import Figures
from tests.support.scale import scaled

STREAMS = scaled(4, 200)
ASKED: dict[str, tuple[Dialect, dict[str, object]]] = {
    "chat": (Dialect.OPENAI_CHAT, {"stream_options": {"include_usage": True}}),
    "chat under an alias": (Dialect.OPENAI_CHAT, {"model": "alias"}),
    "messages": (Dialect.ANTHROPIC_MESSAGES, {"max_tokens": 99}),
    "responses": (Dialect.OPENAI_RESPONSES, {}),
}
TEXTS = ["Hello", " world", "\n\n", "é\U0001f600", '{"a":1}', "data: [DONE]", "\\", " ", "\u2028", "<think>"]
_TIMES = re.compile(rb'"(created|created_at|completed_at)":[\d.]+')


def recorded(choose: random.Random) -> bytes:
    """A stream as engines send them: words, thoughts, calls, comments, and an end or none."""
    thoughts, words = choose.choices(TEXTS, k=choose.randint(0, 4)), choose.choices(TEXTS, k=choose.randint(0, 6))
    events = [chunks.role(), *map(chunks.thought, thoughts), *map(chunks.text, words)]
    finish = "stop"
    if choose.random() < 0.4:
        finish = "tool_calls"
        for index in range(choose.randint(1, 2)):
            events.append(chunks.call(index, id=f"call_{index}", name="weather"))
            events += [chunks.call(index, piece) for piece in ('{"ci', 'ty":"', "ulm", '"}')]
    if choose.random() < 0.3:
        events.insert(1, b": a comment\n\n")
    stream = b"".join(events) + chunks.end(finish)
    if choose.random() < 0.2:
        stream = stream[: choose.randrange(len(stream))]  # the engine died
    if choose.random() < 0.2:
        stream = stream.replace(b"\n\n", b"\r\n\r\n")
    return stream


def told(name: str, pieces: Sequence[bytes]) -> tuple[bytes, bool, bytes | None, str, object]:
    """What the client is sent, and what is noted of the stream."""
    dialect, fields = ASKED[name]
    turns = [{"role": "user", "content": "x"}]
    key = "input" if dialect is Dialect.OPENAI_RESPONSES else "messages"
    body = msgspec.json.encode({"model": "tiny", key: turns, "stream": True} | fields)
    facts = ModelFacts()
    answer = rendering(read(body, dialect, lambda asked: Target("tiny", facts)), dialect, "req_1")
    tap = answer.tap
    sent = b"".join(tap.feed(piece) for piece in pieces if piece) + tap.end()
    return _TIMES.sub(rb'"\1":0', sent), tap.done, tap.error, tap.finish_reason, answer.usage()


@pytest.mark.parametrize("name", ASKED)
def test_goal_R05_pieces_make_no_difference(name: str, figures: Figures) -> None:
    choose, splits = random.Random(5), 0
    for _ in range(STREAMS):
        stream = recorded(choose)
        whole = told(name, [stream])
        for at in range(1, len(stream), scaled(7, 1)):
            assert told(name, [stream[:at], stream[at:]]) == whole, (at, stream)
            splits += 1
        cuts = sorted(choose.randrange(len(stream)) for _ in range(9)) if stream else []
        assert told(name, [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]) == whole
        assert told(name, [stream[n : n + 1] for n in range(len(stream))]) == whole
    figures.add("R05", f"{STREAMS} streams in pieces, {name}", "identical for every split", f"0 of {splits:,} differ")

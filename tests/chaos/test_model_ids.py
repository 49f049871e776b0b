"""Whatever a client calls its model, the neuron is asked for exactly what it should be (R65, F55, F56)."""

from __future__ import annotations

import random
from urllib.parse import quote

from cortex_core.config import Catalogue
from cortex_core.http import Client
from tests.chaos.stage import CHAT
from tests.support.figures import Figures
from tests.support.gateway import TINY, Running, gateway
from tests.support.scale import scaled
from tests.support.scripted import ANSWER, ScriptedNeuron, says

PIECES = [
    "..", "/", "//", "\\", "../", "..%2f", "%2e%2e/", "%00", "%0d%0a", "\r\n", "\n", "\0", "?", "#", "?a=b", "&", ";",
    ":", "@", "http://evil/", "models/unload", "/models/load", "/events", "v1", "tiny", "Host: evil",
    "\r\nx-evil: 1\r\n\r\n",
    "GET /events HTTP/1.1", " ", "\t", "\u2028", "\ufeff", "é", "\U0001f600", "{", "}", '"', "\\u0000", "${a}",
    "*", "[", "]", "a" * 60, "-", "~", "\x7f", "\x1b[31m", "%", "%ff", "%u002e",
]  # fmt: skip
TARGETS = {CHAT: CHAT, "/v1/messages": CHAT, "/v1/responses": CHAT, "/v1/completions": "/v1/completions",
           "/tokenize": "/tokenize", "/v1/embeddings": "/v1/embeddings"}  # fmt: skip
SAID = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 5, "prompt": "x", "input": "x"}
SENT = {
    "host", "accept-encoding", "content-length", "content-type", "x-cortex-api", "x-cortex-gateway",
    "x-cortex-request-id", "x-cortex-instance", "x-cortex-replica", "x-cortex-priority", "x-cortex-deadline-s",
}  # fmt: skip


def hostile(choose: random.Random) -> str:
    return "".join(choose.choice(PIECES) for _ in range(choose.randint(1, 5)))


async def test_goal_R65_every_name_leads_to_the_one_target(figures: Figures) -> None:
    """A pattern takes every name for `tiny`, so that all of them get as far as a name can."""
    many, choose = scaled(1000, 100_000), random.Random(1)
    catalogue = Catalogue(models=(TINY,), aliases={"*": "tiny"})
    reached = 0
    async with ScriptedNeuron("beast") as beast, gateway([beast], catalogue) as running:
        beast.ready("tiny")
        beast.answers = says(ANSWER)
        await running.up("beast")
        for _ in range(many):
            path = choose.choice(list(TARGETS))
            fields = {key: value for key, value in SAID.items() if key != "input" or path in INPUTS}
            got = await running.ask("POST", path, {"model": hostile(choose), **fields})
            assert got.status in (200, 400, 404), (path, got)
            for asked in beast.asked:
                assert asked.path == TARGETS[path]
                assert set(asked.headers) <= SENT, asked.headers
                assert asked.headers["x-cortex-instance"] == "beast-1"
            reached += len(beast.asked)
            beast.asked.clear()
        assert (beast.loads, beast.unloads) == ([], [])
        await in_targets(running, choose, many // 10)
    assert reached > many / 3
    figure = f"{reached:,} of {many:,} went on, each to its one target; no other header, route or command"
    figures.add("R65", "hostile model ids", "target and headers exactly as specified", figure)


INPUTS = ("/v1/responses", "/v1/embeddings")


async def in_targets(running: Running, choose: random.Random, many: int) -> None:
    """As part of a path nothing is known by such a name, and the answer is one, of this request."""
    client = Client(f"http://{running.address}")
    for _ in range(many):
        name = quote(hostile(choose).encode("utf-8", "surrogatepass"), safe="/:@")
        async with client.request("GET", f"/v1/models/{name}") as response:
            body = await response.read(10**6)
            assert response.status in (200, 400, 404, 405), (name, body)
    await client.close()
